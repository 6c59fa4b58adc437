//! Users: `Basic`, and `Bearer` with a token service. Run where a user was given.

use crate::registry::answer::{Answer, Problem, Verdict, hold};
use crate::registry::check::{Section, must, sound};
use crate::registry::client::Identity;
use crate::registry::content::{Algorithm, INDEX, MANIFESTS, Manifest, word};
use crate::registry::credentials::{Challenge, User, token};
use crate::registry::lab::Lab;
use crate::registry::url::Target;

const TOKENS: &str = "Docker Registry HTTP API V2, Token Authentication Specification";

pub(super) const SECTION: Section = Section {
    name: "signing-in",
    heading: "RFC 9110, 11; distribution-spec, API, Determining Support",
    checks: &[
        must(
            "signing-in-challenge",
            "whoever is not let in is answered 401 with WWW-Authenticate",
            challenge,
        )
        .from("RFC 9110, 15.5.2"),
        must("signing-in-scheme", "the challenge is Basic, or Bearer with a realm", scheme).from(TOKENS),
        must("signing-in-code", "the 401 says UNAUTHORIZED", code)
            .from("distribution-spec, Error Codes, code-11"),
        must("signing-in", "with the user's password, GET /v2/ is answered 200", signed_in),
        sound(
            "signing-in-wrong-password",
            "a wrong password, an unknown user and nonsense are not let in",
            wrong,
        ),
        sound("signing-in-push-by-nobody", "nobody can push: 401, and nothing is stored", push_by_nobody),
        sound(
            "signing-in-delete-by-nobody",
            "nobody can delete: 401, and it is still there",
            delete_by_nobody,
        ),
        sound(
            "signing-in-hides-nothing",
            "what is there and what is not look the same to somebody who may not look",
            hidden,
        ),
        must("token-is-given", "the realm answers with token or access_token", token_given).from(TOKENS),
        must(
            "token-needs-password",
            "a wrong password gets no token, or one that does not let in",
            token_wrong,
        )
        .from(TOKENS),
        must("token-of-another-repository", "a token for one repository opens no other one", token_elsewhere)
            .from(TOKENS),
        must("token-of-another-action", "a token for pull does not push", token_pull_only).from(TOKENS),
        must("token-forged", "a token with one character changed is not let in", token_forged).from(TOKENS),
        must(
            "token-scope-is-asked-for",
            "the challenge to a push asks for pull and push of this repository",
            scope,
        )
        .from(TOKENS),
    ],
};

fn base(lab: &Lab<'_>, identity: Identity) -> Result<Answer, Problem> {
    lab.client.ask("GET", "/v2/").identity(identity).send()
}

/// The challenge to somebody who begins an upload without a user.
fn challenged(lab: &Lab<'_>) -> Result<(Answer, Challenge), Problem> {
    let answer = lab.ask("POST", "blobs/uploads/").identity(Identity::Nobody).send()?;
    let text = answer.is(&[401])?.need("WWW-Authenticate")?;
    let challenge = Challenge::read(text);
    let challenge = challenge.ok_or_else(|| answer.problem(format_args!("`{}`", text.escape_debug())))?;
    Ok((answer, challenge))
}

fn challenge(lab: &Lab<'_>) -> Verdict {
    base(lab, Identity::Nobody)?.is(&[401])?.need("WWW-Authenticate")?;
    challenged(lab).map(drop)
}

fn scheme(lab: &Lab<'_>) -> Verdict {
    challenged(lab).map(drop)
}

fn code(lab: &Lab<'_>) -> Verdict {
    challenged(lab)?.0.says(&["UNAUTHORIZED"]).map(drop)
}

fn signed_in(lab: &Lab<'_>) -> Verdict {
    base(lab, Identity::Own)?.is(&[200])?;
    let manifest = lab.tagged("a")?;
    lab.get_manifest("a")?.is(&[200])?.body_is(&manifest.bytes)?;
    Ok(())
}

fn user<'a>(lab: &'a Lab<'_>) -> Result<&'a User, Problem> {
    lab.client.user().ok_or_else(|| Problem::Unsupported("no user was given".to_owned()))
}

fn wrong(lab: &Lab<'_>) -> Verdict {
    let good = user(lab)?;
    let bad = [
        User { password: format!("{}x", good.password), ..good.clone() },
        User { password: String::new(), ..good.clone() },
        User { name: word(), ..good.clone() },
        User { name: String::new(), password: String::new() },
    ];
    let nonsense = ["Basic", "Basic !", "Bearer x", "Bearer", "Digest x", "x"].map(str::to_owned);
    for value in bad.iter().map(User::basic).chain(nonsense) {
        // A registry whose logins are limited may answer 429.
        let answer = lab.ask("POST", "blobs/uploads/").identity(Identity::Exactly(value)).send()?;
        answer.is(&[400, 401, 403, 429])?;
    }
    Ok(())
}

fn push_by_nobody(lab: &Lab<'_>) -> Verdict {
    let text = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    let manifest = Manifest::raw(Algorithm::Sha256, INDEX, text);
    let ask = lab.ask("PUT", "manifests/a").with("Content-Type", INDEX).bytes(&manifest.bytes);
    ask.identity(Identity::Nobody).send()?.is(&[401])?;
    lab.get_manifest("a")?.is(&[404])?;
    Ok(())
}

fn delete_by_nobody(lab: &Lab<'_>) -> Verdict {
    let manifest = lab.tagged("a")?;
    for reference in ["a", &manifest.digest] {
        let ask = lab.ask("DELETE", &format!("manifests/{reference}")).identity(Identity::Nobody);
        ask.send()?.is(&[401, 405])?;
    }
    lab.get_manifest("a")?.is(&[200])?.body_is(&manifest.bytes)?;
    Ok(())
}

fn hidden(lab: &Lab<'_>) -> Verdict {
    lab.tagged("a")?;
    let nobody = |lab: &Lab<'_>, path| {
        lab.ask("GET", path).with("Accept", MANIFESTS).identity(Identity::Nobody).send()
    };
    let (there, absent) = (nobody(lab, "manifests/a")?, nobody(&lab.another(), "manifests/a")?);
    // Where everybody may pull there is nothing to hide.
    hold(there.status() == 200 || there.status() == absent.status(), || {
        format!("{} => {}, but {} => {}", there.request, there.status(), absent.request, absent.status())
    })
}

/// Asks the token service in this user's name; `None` where there is none.
fn token_for(lab: &Lab<'_>, user: &User, scope: &str) -> Result<(Answer, Option<String>), Problem> {
    let (asked, challenge) = challenged(lab)?;
    let target: Option<Target> = challenge.token_request(&asked.target, Some(scope));
    let Some(target) = target else {
        return Err(Problem::Unsupported("it asks for Basic, not for tokens".to_owned()));
    };
    let answer = lab.client.ask_at("GET", target).identity(Identity::Exactly(user.basic())).send()?;
    let token = token(answer.body()).filter(|_| answer.status() == 200);
    Ok((answer, token))
}

/// A token of the user's for this scope; it must be given.
fn own_token(lab: &Lab<'_>, scope: &str) -> Result<Identity, Problem> {
    let (answer, token) = token_for(lab, user(lab)?, scope)?;
    let token = token.ok_or_else(|| answer.problem("wanted 200 with a token"))?;
    Ok(Identity::Exactly(format!("Bearer {token}")))
}

fn begin_as(lab: &Lab<'_>, identity: Identity) -> Result<Answer, Problem> {
    lab.ask("POST", "blobs/uploads/").identity(identity).send()
}

fn token_given(lab: &Lab<'_>) -> Verdict {
    let identity = own_token(lab, &format!("repository:{}:pull,push", lab.name))?;
    begin_as(lab, identity)?.is(&[202])?;
    Ok(())
}

fn token_wrong(lab: &Lab<'_>) -> Verdict {
    let good = user(lab)?;
    let bad = User { password: format!("{}x", good.password), ..good.clone() };
    let (answer, token) = token_for(lab, &bad, &format!("repository:{}:pull,push", lab.name))?;
    match token {
        Some(token) => begin_as(lab, Identity::Exactly(format!("Bearer {token}")))?.is(&[401, 403])?.status(),
        None => answer.is(&[400, 401, 403, 429])?.status(),
    };
    Ok(())
}

fn token_elsewhere(lab: &Lab<'_>) -> Verdict {
    let identity = own_token(lab, &format!("repository:{}:pull,push", lab.name))?;
    begin_as(&lab.another(), identity)?.is(&[401, 403])?;
    Ok(())
}

fn token_pull_only(lab: &Lab<'_>) -> Verdict {
    let manifest = lab.tagged("a")?;
    let identity = own_token(lab, &format!("repository:{}:pull", lab.name))?;
    let answer = lab.ask("GET", "manifests/a").with("Accept", MANIFESTS).identity(identity.clone()).send()?;
    answer.is(&[200])?.body_is(&manifest.bytes)?;
    begin_as(lab, identity.clone())?.is(&[401, 403])?;
    let ask = lab.ask("DELETE", "manifests/a").identity(identity);
    ask.send()?.is(&[401, 403, 405])?;
    Ok(())
}

fn token_forged(lab: &Lab<'_>) -> Verdict {
    let Identity::Exactly(good) = own_token(lab, &format!("repository:{}:pull,push", lab.name))? else {
        return Ok(());
    };
    for at in [good.len() / 3, good.len() / 2, 2 * good.len() / 3] {
        let mut forged = good.clone().into_bytes();
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        let forged = String::from_utf8(forged).unwrap_or_default();
        begin_as(lab, Identity::Exactly(forged))?.is(&[400, 401, 403])?;
    }
    Ok(())
}

fn scope(lab: &Lab<'_>) -> Verdict {
    let (answer, challenge) = challenged(lab)?;
    let Challenge::Bearer { scope, .. } = challenge else {
        return Err(Problem::Unsupported("it asks for Basic, not for tokens".to_owned()));
    };
    let scope = scope.unwrap_or_default();
    let name = format!("repository:{}:", lab.name);
    let good = scope.strip_prefix(&name).is_some_and(|actions| {
        let actions: Vec<&str> = actions.split(',').collect();
        actions.contains(&"pull") && actions.contains(&"push")
    });
    hold(good, || format!("{} => scope `{}`; wanted {name}pull,push", answer.request, scope.escape_debug()))
}
