//! Requests in JSON against services made of closures.

#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use proptest::prelude::*;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, Value};
use trivet_etcd_gateway::{Body, Gateway, Limits, SetupError, json};

const ROUTES: &[(&str, &str)] = &[
    ("/one", "/echo.Echo/One"),
    ("/many", "/echo.Echo/Many"),
    ("/both", "/echo.Echo/Both"),
];

const LIMITS: Limits = Limits { json_bytes: 1000 };

fn descriptors() -> Vec<u8> {
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
    protox::compile(["echo.proto"], [tests])
        .unwrap()
        .encode_to_vec()
}

fn gateway() -> Gateway {
    Gateway::new(&descriptors(), ROUTES).unwrap()
}

fn everything() -> MessageDescriptor {
    DescriptorPool::decode(descriptors().as_slice())
        .unwrap()
        .get_message_by_name("echo.Everything")
        .unwrap()
}

fn decoded(text: &str) -> Result<DynamicMessage, json::DecodeError> {
    json::decode(&everything(), text.as_bytes())
}

/// What a message looks like after the way there and back.
fn normal(text: &str) -> String {
    let mut out = Vec::new();
    json::encode(&decoded(text).unwrap(), &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn messages_are_written_by_etcds_rules() {
    for (text, expected) in [
        // Integers of 64 bits are strings; both spellings are read.
        (
            r#"{"long":"-9223372036854775808","ulong":18446744073709551615}"#,
            r#"{"long":"-9223372036854775808","ulong":"18446744073709551615"}"#,
        ),
        (
            r#"{"int":"-7","uint":4294967295}"#,
            r#"{"int":-7,"uint":4294967295}"#,
        ),
        // Bytes are base64, enums are names.
        (r#"{"raw_bytes":"AP8="}"#, r#"{"raw_bytes":"AP8="}"#),
        (
            r#"{"mood":1,"moods":["CALM",1,7]}"#,
            r#"{"mood":"WILD","moods":["CALM","WILD",7]}"#,
        ),
        // Names as in the file; the other form is read.
        (
            r#"{"rawBytes":"YQ==","TTL":5}"#,
            r#"{"raw_bytes":"YQ==","TTL":"5"}"#,
        ),
        // Defaults, null and what is unknown are left out.
        (
            r#"{"long":0,"text":"","flag":false,"mood":"CALM","list":[],"inner":null,"number":null,"zzz":{"a":[1]}}"#,
            "{}",
        ),
        // A message that is there stays, and so does a choice that was made.
        (r#"{"inner":{}}"#, r#"{"inner":{}}"#),
        (r#"{"left":0}"#, r#"{"left":"0"}"#),
        (r#"{"right":""}"#, r#"{"right":""}"#),
        (
            r#"{"list":[{"flag":true},{},null]}"#,
            r#"{"list":[{"flag":true},{},{}]}"#,
        ),
        (r#"{"keys":["YQ==",""]}"#, r#"{"keys":["YQ==",""]}"#),
        (r#"{"text":"a\"b\n\u00e4"}"#, "{\"text\":\"a\\\"b\\nä\"}"),
        ("null", "{}"),
    ] {
        assert_eq!(normal(text), expected, "{text}");
    }
}

#[test]
fn what_does_not_fit_is_refused_in_words() {
    for (text, expected) in [
        ("", "unexpected EOF"),
        (r#"{"long":"#, "unexpected EOF"),
        (
            "[]",
            "json: cannot unmarshal array into field echo.Everything of type object",
        ),
        (
            r#"{"long":true}"#,
            "json: cannot unmarshal bool into field echo.Everything.long of type int64",
        ),
        (
            r#"{"long":1.5}"#,
            "json: cannot unmarshal number 1.5 into field echo.Everything.long of type int64",
        ),
        (
            r#"{"int":2147483648}"#,
            "json: cannot unmarshal number 2147483648 into field echo.Everything.int of type int32",
        ),
        (
            r#"{"ulong":"-1"}"#,
            "json: cannot unmarshal number -1 into field echo.Everything.ulong of type uint64",
        ),
        (
            r#"{"list":{}}"#,
            "json: cannot unmarshal object into field echo.Everything.list of type array",
        ),
        (
            r#"{"raw_bytes":5}"#,
            "json: cannot unmarshal number 5 into field echo.Everything.raw_bytes of type bytes",
        ),
        (
            r#"{"raw_bytes":"_-__"}"#,
            "illegal base64 data in field echo.Everything.raw_bytes",
        ),
        (
            r#"{"raw_bytes":"YQ"}"#,
            "illegal base64 data in field echo.Everything.raw_bytes",
        ),
        // To take it for the default would do something else than what was asked for.
        (
            r#"{"mood":"MAD"}"#,
            "unknown value \"MAD\" for enum echo.Everything.Mood",
        ),
    ] {
        assert_eq!(decoded(text).unwrap_err().to_string(), expected, "{text}");
    }
    // Deep nesting is an error, not the end of the stack.
    let deep = r#"{"inner":"#.repeat(100_000);
    assert!(decoded(&deep).is_err());
}

fn any_json() -> impl Strategy<Value = String> {
    let names = prop::sample::select(vec![
        "long",
        "ulong",
        "int",
        "uint",
        "flag",
        "text",
        "raw_bytes",
        "mood",
        "left",
        "right",
        "TTL",
        "list",
        "inner",
        "keys",
        "moods",
        "what",
    ]);
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|value| value.to_string()),
        any::<i64>().prop_map(|value| value.to_string()),
        any::<u64>().prop_map(|value| format!("\"{value}\"")),
        any::<f64>().prop_map(|value| format!("{value:e}")),
        "[a-zA-Z=]{0,8}".prop_map(|value| format!("\"{value}\"")),
        Just("\"CALM\"".to_owned()),
    ];
    leaf.prop_recursive(4, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec((names.clone(), inner.clone()), 0..5).prop_map(|members| {
                let members: Vec<_> = members
                    .into_iter()
                    .map(|(name, value)| format!("\"{name}\":{value}"))
                    .collect();
                format!("{{{}}}", members.join(","))
            }),
            prop::collection::vec(inner, 0..4).prop_map(|items| format!("[{}]", items.join(","))),
        ]
    })
}

proptest! {
    /// What is read means the same after the way through JSON and through the wire format.
    #[test]
    fn whatever_is_read_survives_the_way_there_and_back(text in any_json()) {
        if let Ok(message) = decoded(&text) {
            let wire = message.encode_to_vec();
            let message = DynamicMessage::decode(everything(), wire.as_slice()).unwrap();
            let mut out = Vec::new();
            json::encode(&message, &mut out);
            let again = json::decode(&everything(), &out);
            prop_assert_eq!(again.as_ref().map(prost::Message::encode_to_vec), Ok(wire));
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = json::decode(&everything(), &bytes);
    }
}

/// Everything that a service was sent.
#[derive(Default)]
struct Seen {
    path: String,
    headers: HeaderMap,
    messages: Vec<String>,
}

fn frame(message: &DynamicMessage) -> Bytes {
    let body = message.encode_to_vec();
    let mut frame = vec![0];
    frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
    frame.extend_from_slice(&body);
    frame.into()
}

fn trailers(code: u32, text: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.into());
    trailers.insert("grpc-message", text.parse().unwrap());
    trailers
}

/// A service that answers each message with itself, and then with a status.
async fn echo(
    seen: Arc<Mutex<Seen>>,
    request: Request<Body>,
    (code, text): (u32, &'static str),
) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    let (head, body) = request.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let mut rest = &bytes[..];
    let mut frames = Vec::new();
    while let [0, a, b, c, d, tail @ ..] = rest {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let message = DynamicMessage::decode(everything(), &tail[..length]).unwrap();
        rest = &tail[length..];
        let mut out = Vec::new();
        json::encode(&message, &mut out);
        let mut seen = seen.lock().unwrap();
        seen.messages.push(String::from_utf8(out).unwrap());
        frames.push(Ok(Frame::data(frame(&message))));
    }
    assert!(rest.is_empty());
    {
        let mut seen = seen.lock().unwrap();
        seen.path = head.uri.path().to_owned();
        seen.headers = head.headers;
    }
    frames.push(Ok(Frame::trailers(trailers(code, text))));
    // Cut where it hurts.
    let pieces = frames
        .into_iter()
        .flat_map(
            |frame: Result<Frame<Bytes>, Infallible>| match frame.unwrap().into_data() {
                Ok(mut data) => {
                    let tail = data.split_off(data.len().min(3));
                    vec![Ok(Frame::data(data)), Ok(Frame::data(tail))]
                }
                Err(trailers) => vec![Ok(trailers)],
            },
        );
    let pieces: Vec<_> = pieces.collect();
    Response::new(StreamBody::new(stream::iter(pieces)).boxed_unsync())
}

fn post(path: &str, body: &str) -> Request<Full<Bytes>> {
    Request::post(path)
        .body(Full::from(body.to_owned()))
        .unwrap()
}

/// Status, content type and body of an answer, and what the service saw.
async fn ask(
    request: Request<Full<Bytes>>,
    status: (u32, &'static str),
) -> (u16, String, String, Arc<Mutex<Seen>>) {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let path = request.uri().path().to_owned();
    let response = gateway()
        .answer(&path, request, LIMITS, |call| {
            echo(seen.clone(), call, status)
        })
        .await;
    let (head, body) = response.into_parts();
    let content_type = head.headers["content-type"].to_str().unwrap().to_owned();
    let body = body.collect().await.unwrap().to_bytes();
    let body = String::from_utf8(body.to_vec()).unwrap();
    (head.status.as_u16(), content_type, body, seen)
}

#[tokio::test]
async fn a_call_with_one_answer() {
    let mut request = post("/one", r#"{"long":5}"#);
    let headers = request.headers_mut();
    headers.insert("authorization", "a-token".parse().unwrap());
    headers.insert("grpc-metadata-hasleader", "true".parse().unwrap());
    headers.insert("grpc-metadata-grpc-encoding", "gzip".parse().unwrap());
    headers.insert("cookie", "private".parse().unwrap());
    let (status, content_type, body, seen) = ask(request, (0, "")).await;
    assert_eq!((status, content_type.as_str()), (200, "application/json"));
    assert_eq!(body, r#"{"long":"5"}"#);
    {
        let seen = seen.lock().unwrap();
        assert_eq!(seen.path, "/echo.Echo/One");
        assert_eq!(seen.headers["authorization"], "a-token");
        assert_eq!(seen.headers["hasleader"], "true");
        assert_eq!(seen.headers["content-type"], "application/grpc");
        assert!(
            !seen.headers.contains_key("cookie") && !seen.headers.contains_key("grpc-encoding")
        );
    }

    let (status, _, body, seen) = ask(post("/one", ""), (0, "")).await;
    assert_eq!((status, body.as_str()), (200, "{}"));
    assert_eq!(seen.lock().unwrap().messages, ["{}"]);
}

#[tokio::test]
async fn refusals_become_http() {
    let (status, content_type, body, _) = ask(post("/one", "{}"), (5, "no%20\"it\"")).await;
    assert_eq!((status, content_type.as_str()), (404, "application/json"));
    assert_eq!(
        body,
        r#"{"error":"no \"it\"","code":5,"message":"no \"it\""}"#
    );
    for (code, expected) in [
        (1, 408),
        (2, 500),
        (3, 400),
        (4, 504),
        (6, 409),
        (7, 403),
        (8, 429),
        (9, 400),
        (10, 409),
        (11, 400),
        (12, 501),
        (13, 500),
        (14, 503),
        (15, 500),
        (16, 401),
        (99, 500),
    ] {
        let (status, ..) = ask(post("/one", "{}"), (code, "x")).await;
        assert_eq!(status, expected, "code {code}");
    }
}

#[tokio::test]
async fn requests_that_never_reach_the_service() {
    let (status, content_type, body, seen) = ask(post("/none", "{}"), (0, "")).await;
    assert_eq!((status, body.as_str()), (404, "Not Found\n"));
    assert_eq!(content_type, "text/plain; charset=utf-8");
    assert_eq!(seen.lock().unwrap().path, "");

    let request = Request::get("/one").body(Full::default()).unwrap();
    let (status, _, body, _) = ask(request, (0, "")).await;
    assert_eq!((status, body.as_str()), (405, "Method Not Allowed\n"));

    let (status, _, body, seen) = ask(post("/one", "{\"long\":"), (0, "")).await;
    assert_eq!(status, 400);
    assert_eq!(
        body,
        r#"{"error":"unexpected EOF","code":3,"message":"unexpected EOF"}"#
    );
    assert_eq!(seen.lock().unwrap().path, "");

    let long = format!("{{\"text\":\"{}\"}}", "x".repeat(1000));
    for path in ["/one", "/both"] {
        let (status, ..) = ask(post(path, &long), (0, "")).await;
        assert_eq!(status, 429, "{path}");
    }
}

#[tokio::test]
async fn a_stream_of_answers_is_a_line_each() {
    let (status, content_type, body, _) = ask(post("/many", r#"{"int":1}"#), (0, "")).await;
    assert_eq!((status, content_type.as_str()), (200, "application/json"));
    assert_eq!(body, "{\"result\":{\"int\":1}}\n");
    // What fails after the first line is the last line.
    let (status, _, body, _) = ask(post("/many", r#"{"int":1}"#), (14, "gone")).await;
    assert_eq!(status, 200);
    assert_eq!(
        body,
        "{\"result\":{\"int\":1}}\n{\"error\":{\"grpc_code\":14,\"http_code\":503,\"message\":\"gone\",\"http_status\":\"Service Unavailable\"}}\n"
    );
    // What fails before is the status of the whole.
    let (status, _, body, _) = ask(post("/both", ""), (7, "no")).await;
    assert_eq!(status, 403);
    assert_eq!(
        body,
        "{\"error\":{\"grpc_code\":7,\"http_code\":403,\"message\":\"no\",\"http_status\":\"Forbidden\"}}\n"
    );
}

#[tokio::test]
async fn a_stream_of_requests_is_one_value_after_the_other() {
    let (status, _, body, seen) =
        ask(post("/both", "{\"int\":1}{\"int\":\"2\"} {}"), (0, "")).await;
    assert_eq!(status, 200);
    assert_eq!(
        body,
        "{\"result\":{\"int\":1}}\n{\"result\":{\"int\":2}}\n{\"result\":{}}\n"
    );
    assert_eq!(seen.lock().unwrap().messages.len(), 3);
    // Nothing asked, nothing answered.
    let (status, _, body, _) = ask(post("/both", " "), (0, "")).await;
    assert_eq!((status, body.as_str()), (200, ""));
    // What cannot be read at the start is an error, later it is the end of the requests.
    let (status, _, body, seen) = ask(post("/both", "x"), (0, "")).await;
    assert_eq!(status, 500);
    assert!(body.contains("\"code\":2"), "{body}");
    assert_eq!(seen.lock().unwrap().path, "");
    let (status, _, body, _) = ask(post("/both", "{\"int\":1}x"), (0, "")).await;
    assert_eq!((status, body.as_str()), (200, "{\"result\":{\"int\":1}}\n"));
}

/// The service hears of each message when it comes, and the caller of each answer.
#[tokio::test]
async fn both_directions_flow_at_the_same_time() {
    let (feed, fed) = channel();
    let request = Request::post("/both")
        .body(StreamBody::new(Box::pin(fed.map(|text: &'static str| {
            Ok::<_, Infallible>(Frame::data(Bytes::from(text)))
        }))))
        .unwrap();
    feed.send("{\"int\":1}").unwrap();
    let response = gateway()
        .answer("/both", request, LIMITS, |call| async move {
            Response::new(call.into_body())
        })
        .await;
    let mut body = response.into_body();
    let mut line = async || {
        let frame = body.frame().await.unwrap().unwrap();
        String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
    };
    assert_eq!(line().await, "{\"result\":{\"int\":1}}\n");
    feed.send("{\"int\":2}").unwrap();
    assert_eq!(line().await, "{\"result\":{\"int\":2}}\n");
    drop(feed);
    // Without a status the end is an error.
    assert!(line().await.contains("the answer ended without a status"));
}

/// A queue of pieces, as the body of a request that is still being written.
fn channel() -> (
    tokio::sync::mpsc::UnboundedSender<&'static str>,
    impl futures_util::Stream<Item = &'static str> + Send + 'static,
) {
    let (feed, receiver) = tokio::sync::mpsc::unbounded_channel();
    let pieces = stream::unfold(receiver, |mut receiver| async {
        Some((receiver.recv().await?, receiver))
    });
    (feed, pieces)
}

#[test]
fn routes_must_lead_somewhere() {
    for call in ["/echo.Echo/None", "/echo.None/One", "echo"] {
        let wrong = Gateway::new(&descriptors(), &[("/x", call)]);
        assert_eq!(wrong.err(), Some(SetupError::NoSuchCall(call.to_owned())));
    }
    let garbage = Gateway::new(b"\xff\xff", &[]);
    assert!(matches!(garbage, Err(SetupError::Descriptors(_))));
}

#[test]
fn values_keep_their_kinds() {
    let message = decoded(r#"{"number":2.5,"flag":true}"#).unwrap();
    assert_eq!(
        *message.get_field_by_name("number").unwrap(),
        Value::F64(2.5)
    );
    assert_eq!(
        *message.get_field_by_name("flag").unwrap(),
        Value::Bool(true)
    );
}
