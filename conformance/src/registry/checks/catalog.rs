//! The catalog of repositories, which Docker's registry has and the specification has not.

use crate::registry::answer::{Answer, Problem, Verdict, hold};
use crate::registry::check::{Section, may};
use crate::registry::checks::tags::next;
use crate::registry::lab::Lab;

pub(super) const SECTION: Section = Section {
    name: "catalog",
    heading: "outside the specification: Docker Registry HTTP API V2, Listing Repositories",
    checks: &[
        may("catalog-list", "/v2/_catalog lists repositories", list),
        may("catalog-pages", "n limits it, and following Link finds every repository once", pages),
    ],
};

fn page(answer: &Answer) -> Result<Vec<String>, Problem> {
    let value = answer.is_or_unsupported(&[200])?.json()?;
    let names =
        value["repositories"].as_array().ok_or_else(|| answer.problem("wanted a list `repositories`"))?;
    Ok(names.iter().filter_map(|name| name.as_str()).map(str::to_owned).collect())
}

/// All repositories, by pages of `n`, of which no more than `most` are read.
fn all(lab: &Lab<'_>, n: usize, most: usize) -> Result<Vec<String>, Problem> {
    let mut answer = lab.client.ask("GET", &format!("/v2/_catalog?n={n}")).send()?;
    let mut names = page(&answer)?;
    for _ in 1..most {
        hold(names.len() <= n * most, || format!("{} => more than n names", answer.request))?;
        let Some(target) = next(&answer)? else { return Ok(names) };
        answer = lab.client.ask_at("GET", target).send()?;
        names.extend(page(&answer)?);
    }
    Err(answer.problem(format_args!("more than {most} pages of {n}")))
}

fn list(lab: &Lab<'_>) -> Verdict {
    lab.tagged("a")?;
    let names = all(lab, 1000, 1000)?;
    hold(names.contains(&lab.name), || format!("`{}` is not among {} repositories", lab.name, names.len()))
}

fn pages(lab: &Lab<'_>) -> Verdict {
    lab.tagged("a")?;
    let there = lab.another();
    there.tagged("a")?;
    let answer = lab.client.ask("GET", "/v2/_catalog?n=1").send()?;
    let found = page(&answer)?.len();
    hold(found <= 1, || format!("{} => {found} names", answer.request))?;
    let names = all(lab, 100, 10_000)?;
    for name in [&lab.name, &there.name] {
        let count = names.iter().filter(|found| *found == name).count();
        hold(count == 1, || format!("`{name}` is listed {count} times"))?;
    }
    Ok(())
}
