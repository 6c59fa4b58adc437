//! `WWW-Authenticate`, and what is asked of the token service that a registry may send its clients to.
//!
//! ```text
//! 401 Bearer realm=..,service=..  -->  GET realm?service=..&scope=repository:NAME:pull  -->  {"token": ..}
//! 401 Basic realm=..              -->  the password itself, to this registry only
//! ```
//!
//! The realm is text from the registry; [`TokenService`] decides who gets a login.
//!
//! Source: RFC 9110, section 11; docker's "Token Authentication Specification" and "OAuth 2.0".

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;

use crate::RequestError;
use crate::credentials::{Credential, Secret};
use crate::token_service::TokenService;

/// How long a token holds at least, and where its issuer does not say: docker's rule.
const LEAST_LIFE: Duration = Duration::from_secs(60);
/// What identifies this program to a token service.
const CLIENT_ID: &str = "hull";

/// What a registry wants to see.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User and password.
    Basic,
    /// A token from its token service.
    Bearer {
        /// Where tokens are to be had.
        realm: String,
        /// What the token service calls the registry.
        service: Option<String>,
    },
}

/// A request to a token service. Which form it takes depends on what the user has.
#[derive(Debug)]
pub(crate) struct TokenRequest {
    /// Where to.
    pub(crate) url: Url,
    /// `Authorization`, for a `GET`.
    pub(crate) authorization: Option<HeaderValue>,
    /// A form, for a `POST`.
    pub(crate) form: Option<Secret>,
}

/// A token, ready to be sent.
#[derive(Debug)]
pub(crate) struct Token {
    /// `Bearer ...`; marked as sensitive, so that it does not print.
    pub(crate) header: HeaderValue,
    /// How long it holds.
    pub(crate) life: Duration,
}

/// A token service's answer. There are two names for the token; one of them is there.
#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Challenge {
    /// What the answer's headers ask for: a token where that is one of the choices.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let texts = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let mut chosen = None;
        for text in texts {
            for challenge in http_auth::parse_challenges(text).unwrap_or_default() {
                let param = |name: &str| {
                    let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.to_unescaped())
                };
                if challenge.scheme.eq_ignore_ascii_case("bearer") {
                    let Some(realm) = param("realm") else { continue };
                    return Some(Self::Bearer { realm, service: param("service") });
                }
                if challenge.scheme.eq_ignore_ascii_case("basic") {
                    chosen = Some(Self::Basic);
                }
            }
        }
        chosen
    }
}

impl TokenRequest {
    /// The request for a token of `scopes` (`repository:NAME:pull,push`; none for a bare login) for the
    /// registry that `service` calls `name`.
    ///
    /// # Errors
    ///
    /// [`RequestError::ForeignTokenService`] where there is a login, and `service` may not see it.
    pub(crate) fn new(
        service: &TokenService,
        name: Option<&str>,
        scopes: &[String],
        credential: Option<&Credential>,
    ) -> Result<Self, RequestError> {
        let url = if credential.is_some() { service.url_for_login()? } else { service.url() };
        let mut url = url.clone();
        let mut params: Vec<(&str, &str)> = Vec::new();
        params.extend(name.map(|name| ("service", name)));
        if let Some(Credential::IdentityToken(token)) = credential {
            let scope = scopes.join(" ");
            params.extend((!scope.is_empty()).then_some(("scope", scope.as_str())));
            params.extend([("grant_type", "refresh_token"), ("client_id", CLIENT_ID)]);
            params.push(("refresh_token", token.reveal()));
            return Ok(Self { url, authorization: None, form: Some(Secret::new(form_encoded(&params))) });
        }
        params.extend(scopes.iter().map(|scope| ("scope", scope.as_str())));
        if let Some(Credential::Password { user, .. }) = credential {
            params.push(("account", user));
        }
        url.query_pairs_mut().extend_pairs(params);
        Ok(Self { url, authorization: credential.and_then(basic), form: None })
    }
}

/// `application/x-www-form-urlencoded`.
fn form_encoded(params: &[(&str, &str)]) -> String {
    let mut carrier = Url::parse("form:").expect("a constant URL");
    carrier.query_pairs_mut().extend_pairs(params);
    carrier.query().unwrap_or_default().to_owned()
}

/// `Basic ...`, for a password. An identity token is nothing that a registry itself takes.
pub(crate) fn basic(credential: &Credential) -> Option<HeaderValue> {
    let Credential::Password { user, password } = credential else { return None };
    sensitive(&format!("Basic {}", STANDARD.encode(format!("{user}:{}", password.reveal()))))
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl Token {
    /// Reads a token service's answer.
    ///
    /// # Errors
    ///
    /// [`RequestError::Protocol`] where there is no token in it.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, RequestError> {
        let wanted = "a JSON object with `token`";
        // The body holds a secret, so what is wrong with it is not shown.
        let bad = || RequestError::protocol("a token", "something else", wanted);
        let answer: TokenAnswer = serde_json::from_slice(body).map_err(|_| bad())?;
        let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty()).ok_or_else(bad)?;
        let header = sensitive(&format!("Bearer {token}")).ok_or_else(bad)?;
        let life = Duration::from_secs(answer.expires_in.unwrap_or(0).min(u64::from(u32::MAX)));
        Ok(Self { header, life: life.max(LEAST_LIFE) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer { realm: realm.into(), service: service.map(str::to_owned) })
    }

    #[track_caller]
    fn check_challenge(headers: &[&'static str], want: Option<Challenge>) {
        let values = headers.iter().map(|text| (WWW_AUTHENTICATE, HeaderValue::from_static(text)));
        assert_eq!(Challenge::from_headers(&values.collect()), want);
    }

    #[test]
    fn a_token_is_preferred_to_a_password() {
        check_challenge(&[], None);
        check_challenge(&["Basic realm=\"r\""], Some(Challenge::Basic));
        check_challenge(&["bearer realm=\"https://t/\",service=\"s\""], bearer("https://t/", Some("s")));
        check_challenge(&["Basic realm=\"r\"", "Bearer realm=\"https://t/\""], bearer("https://t/", None));
        check_challenge(&["Basic realm=\"r\", Bearer realm=\"https://t/\""], bearer("https://t/", None));
        check_challenge(&["Bearer service=\"no realm\""], None);
        check_challenge(&["Negotiate"], None);
        check_challenge(&["Bearer realm=\"unterminated"], None);
    }

    proptest::proptest! {
        #[test]
        fn no_header_and_no_answer_is_too_strange_to_be_read(text in "\\PC{0,80}", body: Vec<u8>) {
            if let Ok(value) = HeaderValue::from_str(&format!("Bearer {text}")) {
                let _ = Challenge::from_headers(&[(WWW_AUTHENTICATE, value)].into_iter().collect());
            }
            let base = Url::parse("https://r.example").unwrap();
            for realm in [text.clone(), format!("https://{text}")] {
                if let Ok(service) = TokenService::new(&base, &realm, &[]) {
                    let _ = TokenRequest::new(&service, Some(&text), std::slice::from_ref(&text), None);
                    let _ = service.url_for_login();
                }
            }
            let _ = Token::parse(&body);
        }
    }

    fn service(realm: &str) -> TokenService {
        TokenService::new(&Url::parse("https://r.example").unwrap(), realm, &[]).unwrap()
    }

    #[test]
    fn a_password_travels_in_a_header_and_its_user_in_the_query() {
        let (own, scopes) =
            (service("https://r.example/x?y=1"), ["repository:a/b:pull", "repository:c:pull"]);
        let scopes = scopes.map(str::to_owned);
        let credential = Credential::password("me", "pw");
        let request = TokenRequest::new(&own, Some("s"), &scopes, Some(&credential)).unwrap();
        let query = "y=1&service=s&scope=repository%3Aa%2Fb%3Apull&scope=repository%3Ac%3Apull";
        assert_eq!(request.url.as_str(), format!("https://r.example/x?{query}&account=me"));
        assert_eq!((request.authorization.unwrap(), request.form), ("Basic bWU6cHc=".parse().unwrap(), None));
        let nobody = TokenRequest::new(&own, Some("s"), &scopes, None).unwrap();
        assert_eq!(
            (nobody.url.as_str(), nobody.authorization),
            (&*format!("https://r.example/x?{query}"), None)
        );
    }

    #[test]
    fn an_identity_token_travels_in_a_form() {
        let credential = Credential::IdentityToken(Secret::new("a&b"));
        let form = |scopes: &[String]| {
            let request = TokenRequest::new(&service("https://r.example/"), None, scopes, Some(&credential));
            let request = request.unwrap();
            assert_eq!((request.authorization, request.url.as_str()), (None, "https://r.example/"));
            request.form.unwrap().reveal().to_owned()
        };
        let rest = "grant_type=refresh_token&client_id=hull&refresh_token=a%26b";
        assert_eq!(form(&[]), rest);
        assert_eq!(form(&["a:b".to_owned(), "c".to_owned()]), format!("scope=a%3Ab+c&{rest}"));
    }

    #[test]
    fn a_service_elsewhere_gets_neither_a_password_nor_an_identity_token() {
        let foreign = service("https://t.example/x");
        for credential in [Credential::password("me", "pw"), Credential::IdentityToken(Secret::new("t"))] {
            let refused = TokenRequest::new(&foreign, None, &[], Some(&credential));
            assert!(matches!(refused, Err(RequestError::ForeignTokenService { .. })), "{refused:?}");
        }
        let nobody = TokenRequest::new(&foreign, None, &[], None).unwrap();
        assert_eq!((nobody.url.as_str(), nobody.authorization), ("https://t.example/x?", None));
    }

    /// The header and the seconds that it holds.
    type Answer = Option<(&'static str, u64)>;

    #[test]
    fn a_token_is_read_under_both_names_and_never_printed() {
        let rows: &[(&[u8], Answer)] = &[
            (br#"{"token":"abc"}"#, Some(("Bearer abc", 60))),
            (br#"{"access_token":"abc","expires_in":300}"#, Some(("Bearer abc", 300))),
            (br#"{"token":"abc","expires_in":1}"#, Some(("Bearer abc", 60))),
            (br#"{"token":""}"#, None),
            (br#"{"token":"a\nb"}"#, None),
            (b"{}", None),
            (b"secret", None),
        ];
        for (body, want) in rows {
            let token = Token::parse(body).ok();
            let got = token.as_ref().map(|token| (token.header.to_str().unwrap(), token.life.as_secs()));
            assert_eq!(got, *want);
        }
        let printed = format!("{:?}", Token::parse(br#"{"token":"abc"}"#).unwrap());
        assert!(!printed.contains("abc"), "{printed}");
    }
}
