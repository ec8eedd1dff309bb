//! The HTTP surface: what is refused, and how; health and statistics.

use reqwest::Method;
use serde_json::json;

use crate::fleet::Fleet;

const GOOD: &str = r#"{"name":"Assam","price_cents":390}"#;

#[tokio::test]
async fn what_cannot_be_a_product_is_refused() {
    let fleet = Fleet::<1>::start(&[]).await;
    let [a] = &fleet.instances;
    let long_name = format!(r#"{{"name":"{}","price_cents":1}}"#, "x".repeat(201));
    for (body, status, message) in [
        ("", 400, "JSON"),
        ("{", 400, "JSON"),
        ("no JSON", 400, "JSON"),
        (
            r#"{"name":"Assam","price_cents":390} and more"#,
            400,
            "JSON",
        ),
        ("{}", 422, "name"),
        ("null", 422, "object"),
        (r#"["Assam",390]"#, 422, "object"),
        (r#"{"name":"Assam"}"#, 422, "price_cents"),
        (r#"{"price_cents":390}"#, 422, "name"),
        (
            r#"{"name":"Assam","price_cents":390,"colour":"red"}"#,
            422,
            "colour",
        ),
        (
            r#"{"name":"Assam","price_cents":390,"version":9}"#,
            422,
            "version",
        ),
        (r#"{"name":"","price_cents":390}"#, 422, "name"),
        (r#"{"name":" ","price_cents":390}"#, 422, "name"),
        (r#"{"name":7,"price_cents":390}"#, 422, "string"),
        (r#"{"name":"Assam","price_cents":-1}"#, 422, "price_cents"),
        (r#"{"name":"Assam","price_cents":1.5}"#, 422, "price_cents"),
        (
            r#"{"name":"Assam","price_cents":9223372036854775808}"#,
            422,
            "price_cents",
        ),
        (&long_name, 422, "200"),
    ] {
        let answer = a.ask(Method::PUT, "/products/7", body.to_owned()).await;
        assert_eq!(answer.status, status, "{body}: {answer:?}");
        assert!(answer.error().contains(message), "{body}: {answer:?}");
    }
    assert_eq!(a.get(7).await.status, 404, "none of it was stored");
}

#[tokio::test]
async fn a_body_that_is_far_too_large_is_refused() {
    let fleet = Fleet::<1>::start(&[]).await;
    let [a] = &fleet.instances;
    let body = format!(r#"{{"name":"{}","price_cents":1}}"#, "x".repeat(17_000));
    // The last request here: the service need not read the rest of it, and may close the connection.
    let answer = a.ask(Method::PUT, "/products/7", body).await;
    assert_eq!(answer.status, 413, "{answer:?}");
    assert!(answer.error().contains("large"), "{answer:?}");
}

#[tokio::test]
async fn what_cannot_be_an_id_is_refused() {
    let fleet = Fleet::<1>::start(&[]).await;
    let [a] = &fleet.instances;
    for id in [
        "tea",
        "-1",
        "+1",
        "1.0",
        "0x1",
        "%201",
        "%FF",
        "9223372036854775808",
        "99999999999999999999",
    ] {
        let path = format!("/products/{id}");
        for method in [Method::GET, Method::PUT, Method::DELETE] {
            let answer = a.ask(method.clone(), &path, GOOD).await;
            assert_eq!(answer.status, 400, "{method} {path}: {answer:?}");
            assert!(!answer.error().is_empty());
        }
    }
    for id in [0, 9_223_372_036_854_775_807] {
        assert_eq!(a.put(id, "Assam").await.version(), Some(1));
        assert_eq!(a.get(id).await.version(), Some(1));
    }
}

#[tokio::test]
async fn other_paths_and_methods_are_refused() {
    let fleet = Fleet::<1>::start(&[]).await;
    let [a] = &fleet.instances;
    for (method, path, status) in [
        (Method::GET, "/", 404),
        (Method::GET, "/products", 404),
        (Method::GET, "/products/", 404),
        (Method::GET, "/products/7/price", 404),
        (Method::POST, "/products/7", 405),
        (Method::PUT, "/health", 405),
        (Method::DELETE, "/stats", 405),
    ] {
        let answer = a.ask(method.clone(), path, GOOD).await;
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        assert!(!answer.error().is_empty());
    }
}

#[tokio::test]
async fn health_and_statistics() {
    let fleet = Fleet::<1>::start(&[]).await;
    let [a] = &fleet.instances;
    let health = a.health().await;
    assert_eq!(health.status, 200);
    assert_eq!(
        health.body,
        json!({ "status": "ok", "l2": "up", "listener": "live" })
    );
    for (counter, value) in [
        ("l1_hits", 0),
        ("l2_hits", 0),
        ("loads", 0),
        ("refreshes", 0),
        ("invalidations_sent", 0),
        ("invalidations_received", 0),
        // The start of the subscriber.
        ("l1_flushes", 1),
        ("l2_errors", 0),
        ("decode_errors", 0),
        ("l1_entries", 0),
    ] {
        assert_eq!(a.stat(counter).await, value, "{counter}");
    }
}
