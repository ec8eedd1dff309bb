//! The page of the shop in `examples/shop`, as its visitors see it: in Chromium, by `sh tests/proof.sh page`.

// A failed step ends the test.
#![allow(clippy::unwrap_used, clippy::panic, clippy::missing_panics_doc)]

mod browser;
#[path = "../support"]
#[allow(dead_code, reason = "it is shared with other tests")]
mod support {
    pub(crate) mod eventually;
    pub(crate) mod program;
    mod signal;
}

use std::fs;

use crate::browser::{Page, visit};
use crate::support::eventually::eventually;

#[tokio::test]
async fn each_button_shows_what_it_promises() {
    visit(&[], async |page: &Page| {
        let titles = page.value(
            "[...document.querySelectorAll('.action h3')].map((title) => title.textContent)",
        );
        let titles = titles.await;
        let titles = titles.as_array().unwrap();
        assert_eq!(titles.len(), 12);
        for title in titles {
            let title = title.as_str().unwrap();
            page.press(title).await;
            page.verdict(title).await;
            // The next one begins with a shop that is well.
            eventually("all is well again", async || {
                page.is("document.getElementById('state').className === 'good'")
                    .await
            })
            .await;
        }
        nothing_is_wrong(page).await;
    })
    .await;
}

#[tokio::test]
async fn it_shows_what_happens() {
    visit(&[], async |page: &Page| {
        eventually("all instances are in the picture and in the table", async || {
            page.is("document.querySelectorAll('#picture [data-place]').length === 12").await
                && page.is("document.querySelectorAll('#figures tbody tr').length === 11").await
        })
        .await;
        page.client.execute(WATCH, vec![]).await.unwrap();
        // An invalidation goes to Redis, and from there to the other instances.
        page.press("Rename a product").await;
        for dot in ["request down", "l2 up", "l2 down", "load up", "gone down", "gone up"] {
            let is_seen = format!("window.seen.has('moving fill-{dot}')");
            eventually(dot, async || page.is(&is_seen).await).await;
        }
        page.verdict("Rename a product").await;

        eventually("requests and their times are counted", async || {
            page.is("[...document.querySelectorAll('#figures tbody td:nth-child(2)')].some((cell) => Number(cell.textContent) > 5)")
                .await
                && page.is("document.querySelectorAll('#times tbody tr').length === 3").await
                && page.is("/: [1-9][0-9]* pages .* and [1-9]/.test(document.getElementById('timed').textContent)").await
        })
        .await;
        let figures = "document.getElementById('figures').tBodies[0].textContent";
        let before = page.value(figures).await;
        eventually("the figures change", async || page.value(figures).await != before).await;
        eventually("there is a chart of each service that caches", async || {
            page.is("document.querySelectorAll('#charts canvas').length === 6").await
        })
        .await;

        // The key that was renamed: each instance has the new version, and its life is told.
        page.value("document.forms.key.requestSubmit()").await;
        eventually("the key's life is shown", async || {
            page.is("[...document.querySelectorAll('#story li')].some((line) => line.textContent.includes('has invalidated 7'))")
                .await
                && page.is("document.querySelectorAll('#places tbody tr').length === 3").await
        })
        .await;
        assert!(page.is("document.querySelectorAll('#totals tbody tr').length > 8").await);
        assert!(page.is("document.querySelectorAll('#hotkeys tbody tr').length > 3").await);
        assert!(page.is("document.querySelectorAll('#shown dd').length === 5").await);
        nothing_is_wrong(page).await;
    })
    .await;
}

/// Notes each kind of dot that moves in the picture, and which way.
const WATCH: &str = "
    window.seen = new Set();
    const look = (changes) => changes.forEach(({ target }) => window.seen.add(target.getAttribute('class')));
    const what = { attributes: true, attributeFilter: ['cy'], subtree: true };
    new MutationObserver(look).observe(document.getElementById('picture'), what);";

/// No error in the console, and no request to another host.
async fn nothing_is_wrong(page: &Page) {
    let mut requests = 0;
    for line in page.log("performance").await {
        let event: serde_json::Value =
            serde_json::from_str(line["message"].as_str().unwrap()).unwrap();
        if event["message"]["method"] == "Network.requestWillBeSent" {
            let sent = &event["message"]["params"];
            // Those of Chromium's own pages stay in it.
            if sent["documentURL"].as_str().unwrap().starts_with("chrome:") {
                continue;
            }
            let url = sent["request"]["url"].as_str().unwrap();
            assert!(
                url.starts_with(&page.origin) || url.starts_with("data:"),
                "{url}"
            );
            requests += 1;
        }
    }
    assert!(requests > 10, "{requests} were logged");
    for line in page.log("browser").await {
        let text = line["message"].as_str().unwrap();
        // The second one who buys a last piece is refused: that is its answer.
        let is_refusal = text.contains("/api/orders") && text.contains("409");
        assert!(line["level"] != "SEVERE" || is_refusal, "{line}");
    }
}

/// By hand and without a cache: nothing is shown of caches that the shop does not have.
#[tokio::test]
async fn the_other_ways_show_only_what_they_have() {
    for (way, is_said) in [("--by-hand", "in moka"), ("--without-cache", "no caches")] {
        visit(&[way], async |page: &Page| {
            eventually("it says how its services read", async || {
                page.is(&format!(
                    "document.getElementById('intro').textContent.includes('{is_said}')"
                ))
                .await
            })
            .await;
            let headings = page.value(
                "[...document.querySelectorAll('h2, h3')] \
                     .filter((one) => one.getClientRects().length > 0).map((one) => one.textContent)",
            );
            let headings = headings.await;
            let is_there = |heading: &str| headings.as_array().unwrap().contains(&heading.into());
            for shown in ["A product page takes …", "Make a database slow", "Each instance, now"] {
                assert!(is_there(shown), "{way}: {shown} is missing: {headings}");
            }
            for hidden in ["Hot keys", "One key's life", "Flush Redis", "The kill switch"] {
                assert!(!is_there(hidden), "{way}: {hidden}");
            }
            let title = "Buy the last piece twice, at once";
            page.press(title).await;
            page.verdict(title).await;
            nothing_is_wrong(page).await;
        })
        .await;
    }
}

#[tokio::test]
async fn it_fits_a_phone_and_both_schemes() {
    visit(&[], async |page: &Page| {
        let mut grounds = Vec::new();
        for scheme in ["light", "dark"] {
            page.looks(390, 844, scheme).await;
            page.press("Rename a product").await;
            page.verdict("Rename a product").await;
            page.value("document.forms.key.requestSubmit()").await;
            eventually("the key's life is shown", async || {
                page.is("document.querySelectorAll('#places tbody tr').length === 3").await
            })
            .await;
            let wide = page.value(
                "[...document.querySelectorAll('body, section, button, p')] \
                     .filter((one) => one.getBoundingClientRect().right > 390).map((one) => one.textContent)",
            );
            assert_eq!(wide.await, serde_json::json!([]));
            assert_eq!(page.value("document.documentElement.scrollWidth").await, 390);
            grounds.push(page.value("getComputedStyle(document.body).backgroundColor").await);
        }
        assert_ne!(grounds[0], grounds[1]);
    })
    .await;
}

/// On a quiet machine: it shows times.
#[tokio::test]
#[ignore = "it writes examples/shop/page-*.png: sh tests/proof.sh pictures"]
async fn the_pictures() {
    visit(&[], async |page: &Page| {
        page.looks(1280, 1000, "light").await;
        // So that the charts have something to show.
        tokio::time::sleep(std::time::Duration::from_secs(170)).await;
        for title in [
            "Buy the last piece twice, at once",
            "Log out on one instance",
            "Rename a product",
        ] {
            page.press(title).await;
            page.verdict(title).await;
        }
        // What is beside the first buttons.
        let end = "Math.ceil(document.querySelector('.live').getBoundingClientRect().bottom + 12)";
        let height = u32::try_from(page.value(end).await.as_u64().unwrap()).unwrap();
        for scheme in ["light", "dark"] {
            page.looks(1280, height, scheme).await;
            // The charts are drawn anew each second.
            tokio::time::sleep(std::time::Duration::from_secs(2)).await;
            let picture = page.client.screenshot().await.unwrap();
            let path = format!(
                "{}/../../examples/shop/page-{scheme}.png",
                env!("CARGO_MANIFEST_DIR")
            );
            fs::write(path, picture).unwrap();
        }
    })
    .await;
}
