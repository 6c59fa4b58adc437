//! The control socket's requests: `POST /` with an order as JSON, answered with a report or a refusal.
//!
//! | status | body |
//! | --- | --- |
//! | 200 | `{"Ok": report}` or `{"Err": refusal}` |
//! | 400, 404, 405, 413 | a line of text: the request is none of those that are understood here |
//!
//! Both ends are the same program, so the form is nobody else's business; one of another version is
//! told that it is not understood.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;

use crate::control::{Keeper, Order};

/// Largest order in bytes. An htpasswd file is the longest thing in one.
const MAX_ORDER: usize = 4 << 20;

/// Answers one request when the order is carried out.
pub(crate) async fn answer(
    keeper: Arc<Keeper>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let order = match order(request).await {
        Ok(order) => order,
        Err((status, reason)) => {
            let mut response = Response::new(Full::from(reason));
            *response.status_mut() = status;
            return Ok(response);
        }
    };
    let report = keeper.obey(order).await;
    let body = serde_json::to_vec(&report).expect("a report can be written as JSON");
    let mut response = Response::new(Full::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

async fn order(request: Request<Incoming>) -> Result<Order, (StatusCode, &'static str)> {
    if request.uri().path() != "/" {
        return Err((StatusCode::NOT_FOUND, "orders go to /\n"));
    }
    if request.method() != Method::POST {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "orders are POSTed\n"));
    }
    let body = Limited::new(request.into_body(), MAX_ORDER).collect().await;
    let body = body.map_err(|_| (StatusCode::PAYLOAD_TOO_LARGE, "the order did not arrive whole\n"))?;
    // What is wrong is not said: it might quote a password.
    serde_json::from_slice(&body.to_bytes())
        .map_err(|_| (StatusCode::BAD_REQUEST, "the order is not understood\n"))
}
