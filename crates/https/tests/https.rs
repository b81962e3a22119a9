//! Server and client against each other over loopback.
#![allow(clippy::unwrap_used, missing_docs)]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use trivet_https::{
    Auth, Body, Client, Error, Limits, PeerIdentity, RemoteAddress, Server, collect, full, serve,
};
use trivet_pki::{
    ALPN_HTTP, Authority, ClientAuth, Identity, LeafRequest, Secret, ServerTrust,
    SwappableIdentity, Usage,
};

struct World {
    server_ca: Authority,
    client_ca: Authority,
    server: Server,
}

fn leaf(ca: &Authority, name: &str, usage: Usage) -> Identity {
    let request = LeafRequest {
        common_name: name.to_owned(),
        organization: Some("group".to_owned()),
        usage,
        dns: vec!["localhost".to_owned()],
        ips: vec![[127, 0, 0, 1].into()],
    };
    ca.issue(&request, SystemTime::now())
        .unwrap()
        .identity()
        .unwrap()
}

async fn handle(request: Request<Incoming>) -> Response<Body> {
    assert!(
        request
            .extensions()
            .get::<RemoteAddress>()
            .unwrap()
            .0
            .ip()
            .is_loopback()
    );
    let who = request
        .extensions()
        .get::<PeerIdentity>()
        .map_or("nobody".to_owned(), |peer| {
            format!("{} {:?}", peer.name.common_name, peer.name.organizations)
        });
    match request.uri().path() {
        "/who" => Response::new(full(who)),
        "/auth" => Response::new(full(request.headers()["authorization"].as_bytes().to_vec())),
        "/echo" => match collect(request.into_body(), 16).await {
            Ok(bytes) => Response::new(full(bytes)),
            Err(Error::BodyTooLarge { .. }) => Response::builder()
                .status(StatusCode::PAYLOAD_TOO_LARGE)
                .body(full("too large"))
                .unwrap(),
            Err(error) => panic!("{error}"),
        },
        "/slow" => std::future::pending().await,
        _ => Response::builder()
            .status(StatusCode::NOT_FOUND)
            .body(full("nothing here"))
            .unwrap(),
    }
}

async fn world(required: bool) -> World {
    let now = SystemTime::now();
    let (server_ca, client_ca) = (
        Authority::generate("server", now).unwrap(),
        Authority::generate("client", now).unwrap(),
    );
    let identity = SwappableIdentity::new(leaf(&server_ca, "server", Usage::Server));
    let pem = client_ca.cert_pem().as_bytes();
    let auth = if required {
        ClientAuth::Required(pem)
    } else {
        ClientAuth::Optional(pem)
    };
    let tls = trivet_pki::server_config(identity, auth, ALPN_HTTP).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let limits = Limits {
        drain: Duration::from_millis(200),
        ..Limits::default()
    };
    let server = serve(listener, tls, &limits, handle).unwrap();
    World {
        server_ca,
        client_ca,
        server,
    }
}

impl World {
    fn tls(&self, identity: Option<&Identity>, alpn: &[&[u8]]) -> Arc<rustls::ClientConfig> {
        trivet_pki::client_config(
            ServerTrust::Pinned(self.server_ca.cert_pem().as_bytes()),
            identity,
            alpn,
        )
        .unwrap()
    }

    fn url(&self) -> String {
        format!("https://{}", self.server.local_addr())
    }

    fn client(&self, identity: Option<&Identity>) -> Client {
        Client::builder(&self.url(), self.tls(identity, ALPN_HTTP))
            .unwrap()
            .build()
            .unwrap()
    }
}

#[tokio::test]
async fn certificates_are_optional_and_name_the_client() {
    let world = world(false).await;
    assert_eq!(world.client(None).get("/who").await.unwrap(), "nobody");
    let identity = leaf(&world.client_ca, "me", Usage::Client);
    assert_eq!(
        world.client(Some(&identity)).get("/who").await.unwrap(),
        "me [\"group\"]"
    );
    // HTTP/1.1 works as well as h2.
    let client = Client::builder(&world.url(), world.tls(Some(&identity), &[b"http/1.1"]))
        .unwrap()
        .build()
        .unwrap();
    assert_eq!(client.get("/who").await.unwrap(), "me [\"group\"]");
    // A certificate of another CA is refused.
    let stranger = leaf(&world.server_ca, "me", Usage::Client);
    assert!(world.client(Some(&stranger)).get("/who").await.is_err());
}

#[tokio::test]
async fn required_certificates_are_required() {
    let world = world(true).await;
    assert!(world.client(None).get("/who").await.is_err());
    let identity = leaf(&world.client_ca, "me", Usage::Client);
    world.client(Some(&identity)).get("/who").await.unwrap();
}

#[tokio::test]
async fn the_client_refuses_strange_servers() {
    let world = world(false).await;
    let other = Authority::generate("other", SystemTime::now()).unwrap();
    let tls = trivet_pki::client_config(
        ServerTrust::Pinned(other.cert_pem().as_bytes()),
        None,
        ALPN_HTTP,
    )
    .unwrap();
    let error = Client::builder(&world.url(), tls)
        .unwrap()
        .build()
        .unwrap()
        .get("/who")
        .await
        .unwrap_err();
    assert!(error.tls_cause().is_some(), "{error}");
    // A pinned CA does not excuse a wrong name.
    let client = Client::builder("https://elsewhere.example:1", world.tls(None, ALPN_HTTP))
        .unwrap()
        .dial(world.server.local_addr().to_string());
    assert!(matches!(
        client.clone().build().unwrap().get("/who").await,
        Err(Error::Tls { .. })
    ));
    assert_eq!(
        client
            .server_name("localhost")
            .build()
            .unwrap()
            .get("/who")
            .await
            .unwrap(),
        "nobody"
    );
    // Unverified is for fetching a CA.
    let tls = trivet_pki::client_config(ServerTrust::Unverified, None, ALPN_HTTP).unwrap();
    Client::builder(&world.url(), tls)
        .unwrap()
        .build()
        .unwrap()
        .get("/who")
        .await
        .unwrap();
}

#[tokio::test]
async fn bodies_statuses_and_credentials() {
    let world = world(false).await;
    let client = world.client(None);
    assert_eq!(
        client
            .post("/echo", "text/plain", Bytes::from("hello"))
            .await
            .unwrap(),
        "hello"
    );
    let error = client
        .post("/echo", "text/plain", Bytes::from(vec![b'x'; 17]))
        .await
        .unwrap_err();
    assert_eq!(error.status(), Some(StatusCode::PAYLOAD_TOO_LARGE));
    assert!(
        matches!(client.get("/x").await, Err(Error::Status { message, .. }) if message == "nothing here")
    );

    let auth = Auth::Basic {
        user: "server".to_owned(),
        password: Secret::new("pw"),
    };
    let client = Client::builder(&world.url(), world.tls(None, ALPN_HTTP))
        .unwrap()
        .auth(auth)
        .build()
        .unwrap();
    assert_eq!(client.get("/auth").await.unwrap(), "Basic c2VydmVyOnB3");
    let small = Client::builder(&world.url(), world.tls(None, ALPN_HTTP))
        .unwrap()
        .body_limit_bytes(3);
    assert!(matches!(
        small.build().unwrap().get("/who").await,
        Err(Error::BodyTooLarge { limit_bytes: 3 })
    ));
}

#[tokio::test]
async fn time_is_bounded_and_shutdown_drains() {
    let world = world(false).await;
    let client = Client::builder(&world.url(), world.tls(None, ALPN_HTTP))
        .unwrap()
        .request_timeout(Duration::from_millis(50))
        .build()
        .unwrap();
    assert!(matches!(
        client.get("/slow").await,
        Err(Error::Timeout { .. })
    ));
    let slow = tokio::spawn({
        let client = world.client(None);
        async move { client.get("/slow").await }
    });
    world.client(None).get("/who").await.unwrap();
    world.server.shutdown().await;
    assert_eq!(world.server.open_connections(), 0);
    assert!(slow.await.unwrap().is_err());
    let fresh = world.client(None);
    assert!(matches!(
        fresh.get("/who").await,
        Err(Error::Connect { .. })
    ));
}
