//! "Listing Tags" (end-8a, end-8b).

use crate::registry::answer::{Answer, Problem, Verdict, hold};
use crate::registry::check::{Section, must, sound};
use crate::registry::content::Manifest;
use crate::registry::lab::Lab;
use crate::registry::url::Target;

pub(super) const SECTION: Section = Section {
    name: "tags",
    heading: "distribution-spec, Content Discovery, Listing Tags",
    checks: &[
        must("tags-list", "the list is answered 200 with the repository's name and its tags", list),
        must("tags-list-of-no-tags", "a repository without tags is answered 200 with an empty list", none),
        must("tags-unknown-repository", "a repository that is not there is answered 404", unknown)
            .from("distribution-spec, API, Endpoints, end-8a"),
        must("tags-order", "tags are in lexical or in ASCII order", order),
        must("tags-once-each", "a tag that was pushed often is listed once", once),
        must("tags-n", "n=3 gets the first three tags, or fewer with a Link", first),
        must("tags-n-of-all", "an n above their number gets all, without a Link", more_than_all),
        must("tags-n-zero", "n=0 gets an empty list without a Link", zero),
        must("tags-last", "last gets the tags behind it, without itself", last),
        must("tags-n-and-last", "n and last together get the next page", n_and_last),
        must("tags-last-of-all", "last with the last tag gets an empty list", behind_all),
        must("tags-link", "a Link to more tags is rel=\"next\", and leads to the next page", link),
        must("tags-pages-are-whole", "following the pages finds each tag once", pages),
        sound("tags-last-is-no-tag", "last may be a tag that was deleted meanwhile", last_is_no_tag),
        sound("tags-huge-n", "n=1000000000 gets all, or is refused; n beyond 64 bits too", huge),
        sound("tags-malformed-n", "an n that is no number is refused or ignored", malformed),
        sound("tags-of-nested-repositories", "a/b's tags are not a's", nested),
    ],
};

/// The tags of a list.
pub(super) fn tags(answer: &Answer) -> Result<Vec<String>, Problem> {
    let value = answer.is(&[200])?.json()?;
    let tags = value["tags"].as_array().ok_or_else(|| answer.problem("wanted `tags` to be a list"))?;
    let text = |tag: &serde_json::Value| tag.as_str().map(str::to_owned);
    tags.iter().map(text).collect::<Option<_>>().ok_or_else(|| answer.problem("wanted each tag to be a text"))
}

fn list_of(lab: &Lab<'_>, query: &str) -> Result<(Answer, Vec<String>), Problem> {
    let answer = lab.get(&format!("tags/list{query}"))?;
    let found = tags(&answer)?;
    Ok((answer, found))
}

/// The tags are these, in any order: that is a check of its own.
fn same(answer: &Answer, found: &[String], wanted: &[&str]) -> Verdict {
    let mut sorted: Vec<&str> = found.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    hold(sorted == wanted, || format!("{} => {found:?}; wanted {wanted:?}", answer.request))
}

/// A manifest with these tags.
fn tagged(lab: &Lab<'_>, tags: &[&str]) -> Result<Manifest, Problem> {
    let manifest = Manifest::of(&lab.image()?);
    for tag in tags {
        lab.put(&manifest, tag)?;
    }
    Ok(manifest)
}

const SEVEN: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];

fn list(lab: &Lab<'_>) -> Verdict {
    tagged(lab, &["b", "a"])?;
    let (answer, found) = list_of(lab, "")?;
    let name = answer.json()?["name"].clone();
    hold(name == lab.name.as_str(), || format!("{} => name is {name}", answer.request))?;
    same(&answer, &found, &["a", "b"])
}

fn none(lab: &Lab<'_>) -> Verdict {
    lab.untagged()?;
    let (answer, found) = list_of(lab, "")?;
    same(&answer, &found, &[])
}

fn unknown(lab: &Lab<'_>) -> Verdict {
    lab.get("tags/list")?.is(&[404])?;
    Ok(())
}

fn order(lab: &Lab<'_>) -> Verdict {
    tagged(lab, &["b", "B", "a", "A", "_", "1", "10", "2", "a-b", "a.b", "a_b", "ab"])?;
    for query in ["", "?n=100", "?last=B"] {
        let (answer, found) = list_of(lab, query)?;
        // In lexical order, letters that differ by case alone may stand either way round.
        let lower: Vec<String> = found.iter().map(|tag| tag.to_ascii_lowercase()).collect();
        hold(found.is_sorted() || lower.is_sorted(), || format!("{} => {found:?}", answer.request))?;
    }
    Ok(())
}

fn once(lab: &Lab<'_>) -> Verdict {
    tagged(lab, &["a", "b", "a"])?;
    tagged(lab, &["a", "a"])?;
    let (answer, found) = list_of(lab, "")?;
    same(&answer, &found, &["a", "b"])
}

fn first(lab: &Lab<'_>) -> Verdict {
    tagged(lab, &SEVEN)?;
    let (answer, found) = list_of(lab, "?n=3")?;
    let wanted = if answer.header("Link").is_some() { found.len().min(3) } else { 3 };
    same(&answer, &found, &SEVEN[..wanted])
}

fn more_than_all(lab: &Lab<'_>) -> Verdict {
    tagged(lab, &SEVEN)?;
    for query in ["?n=7", "?n=8"] {
        let (answer, found) = list_of(lab, query)?;
        same(&answer, &found, &SEVEN)?;
        if query == "?n=8" {
            hold(answer.header("Link").is_none(), || {
                format!("{} => a Link, with nothing left", answer.request)
            })?;
        }
    }
    Ok(())
}

fn zero(lab: &Lab<'_>) -> Verdict {
    tagged(lab, &["a", "b"])?;
    let (answer, found) = list_of(lab, "?n=0")?;
    same(&answer, &found, &[])?;
    hold(answer.header("Link").is_none(), || format!("{} => a Link", answer.request))
}

fn last(lab: &Lab<'_>) -> Verdict {
    tagged(lab, &SEVEN)?;
    let (answer, found) = list_of(lab, "?last=c")?;
    same(&answer, &found, &SEVEN[3..])
}

fn n_and_last(lab: &Lab<'_>) -> Verdict {
    tagged(lab, &SEVEN)?;
    let (answer, found) = list_of(lab, "?n=2&last=c")?;
    same(&answer, &found, &SEVEN[3..5])
}

fn behind_all(lab: &Lab<'_>) -> Verdict {
    tagged(lab, &["a", "b"])?;
    let (answer, found) = list_of(lab, "?last=b")?;
    same(&answer, &found, &[])
}

/// Where the next page is, by RFC 5988, section 5.
pub(super) fn next(answer: &Answer) -> Result<Option<Target>, Problem> {
    let Some(link) = answer.header("Link") else { return Ok(None) };
    let wrong =
        || answer.problem(format_args!("Link is `{}`; wanted <...>; rel=\"next\"", link.escape_debug()));
    let (target, parameters) =
        link.strip_prefix('<').and_then(|link| link.split_once('>')).ok_or_else(wrong)?;
    let is_next = parameters.split(';').map(str::trim).any(|one| matches!(one, "rel=\"next\"" | "rel=next"));
    if !is_next {
        return Err(wrong());
    }
    answer.target.join(target).map(Some).ok_or_else(wrong)
}

fn link(lab: &Lab<'_>) -> Verdict {
    tagged(lab, &SEVEN)?;
    let (answer, _) = list_of(lab, "?n=3")?;
    let Some(target) = next(&answer)? else { return Ok(()) };
    let answer = lab.client.ask_at("GET", target).send()?;
    same(&answer, &tags(&answer)?, &SEVEN[3..6])
}

fn pages(lab: &Lab<'_>) -> Verdict {
    tagged(lab, &SEVEN)?;
    let (mut answer, mut all) = list_of(lab, "?n=2")?;
    // A registry need not link; then the last tag leads on.
    for _ in 0..SEVEN.len() {
        let last = all.last().cloned().unwrap_or_default();
        let target = match next(&answer)? {
            Some(target) => target,
            None if all.len() < SEVEN.len() => {
                answer.target.at(lab.path("tags/list")).with("n", "2").with("last", &last)
            }
            None => break,
        };
        answer = lab.client.ask_at("GET", target).send()?;
        all.extend(tags(&answer)?);
    }
    same(&answer, &all, &SEVEN)
}

fn last_is_no_tag(lab: &Lab<'_>) -> Verdict {
    tagged(lab, &["a", "c", "d"])?;
    let (answer, found) = list_of(lab, "?last=b")?;
    same(&answer, &found, &["c", "d"])
}

fn huge(lab: &Lab<'_>) -> Verdict {
    tagged(lab, &SEVEN)?;
    for n in ["1000000000", "18446744073709551615", "18446744073709551616", "99999999999999999999999999"] {
        let answer = lab.get(&format!("tags/list?n={n}"))?;
        match answer.status() {
            200 => same(&answer, &tags(&answer)?, &SEVEN)?,
            _ => drop(answer.is_refusal()?),
        }
    }
    Ok(())
}

fn malformed(lab: &Lab<'_>) -> Verdict {
    tagged(lab, &["a", "b"])?;
    for n in ["-1", "abc", "", "1.5", "0x1", "%00", "1%0a"] {
        let answer = lab.get(&format!("tags/list?n={n}"))?;
        match answer.status() {
            200 => drop(tags(&answer)?),
            _ => drop(answer.is_refusal()?),
        }
    }
    Ok(())
}

fn nested(lab: &Lab<'_>) -> Verdict {
    let rest = lab.name.rsplit('/').next().unwrap_or_default();
    let inner = lab.other(&format!("{rest}/inner"));
    tagged(lab, &["a"])?;
    tagged(&inner, &["b"])?;
    let (answer, found) = list_of(lab, "")?;
    same(&answer, &found, &["a"])?;
    let (answer, found) = list_of(&inner, "")?;
    same(&answer, &found, &["b"])
}
