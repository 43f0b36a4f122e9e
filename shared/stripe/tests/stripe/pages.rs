//! Lists: read to their end, within a bound, and never in part without an error.

use tollgate_stripe::{CustomerId, InvoiceItemFilter, StripeError};

use crate::script::{Bench, Reply, error, respond, short};

/// Returns a page of invoice items with these ids, each of the charge `chg_` and its id.
fn page(ids: &[&str], has_more: bool) -> Reply {
    let items: Vec<String> = ids
        .iter()
        .map(|id| {
            format!(
                r#"{{"id":"{id}","object":"invoiceitem","customer":"cus_1","amount":1,"currency":"usd",
                "date":1761609600,"livemode":false,"metadata":{{"tollgate_charge":"chg_{id}"}}}}"#
            )
        })
        .collect();
    let data = items.join(",");
    let url = "/v1/invoiceitems";
    respond(
        200,
        format!(r#"{{"object":"list","url":"{url}","has_more":{has_more},"data":[{data}]}}"#),
    )
}

fn customer() -> CustomerId {
    "cus_1".parse().unwrap()
}

/// Lists invoice items in at most three pages, and compares their ids, or the error.
async fn check(replies: &[Reply], expected: Result<&[&str], &str>, cursors: &[Option<&str>]) {
    let bench = Bench::new(replies);
    let filter = InvoiceItemFilter {
        customer: &customer(),
        created_since: None,
        pending: None,
    };
    let found = bench.client.invoice_items(&filter).max_pages(3).all().await;
    let ids = found
        .as_ref()
        .map(|items| items.iter().map(|item| item.id.as_str()).collect());
    let found = ids.map_err(|_: &StripeError| short(&found));
    assert_eq!(found, expected.map(<[&str]>::to_vec).map_err(str::to_owned));
    assert!(bench.is_finished());
    let sent = bench.sent();
    let sent = sent
        .iter()
        .map(|it| it.uri.split_once("starting_after=").map(|(_, id)| id));
    assert_eq!(sent.collect::<Vec<_>>(), cursors);
}

#[tokio::test]
async fn a_list_is_read_to_its_end() {
    check(&[page(&[], false)], Ok(&[]), &[None]).await;
    check(
        &[page(&["ii_2", "ii_1"], false)],
        Ok(&["ii_2", "ii_1"]),
        &[None],
    )
    .await;
    let three = [
        page(&["ii_5", "ii_4"], true),
        page(&["ii_3"], true),
        page(&["ii_1"], false),
    ];
    let all = ["ii_5", "ii_4", "ii_3", "ii_1"];
    check(&three, Ok(&all), &[None, Some("ii_4"), Some("ii_3")]).await;
    // The last page is empty, as when items were deleted in the meantime.
    let empty_end = [page(&["ii_1"], true), page(&[], false)];
    check(&empty_end, Ok(&["ii_1"]), &[None, Some("ii_1")]).await;
    let lost = [page(&["ii_2"], true), Reply::Lost, page(&["ii_1"], false)];
    check(
        &lost,
        Ok(&["ii_2", "ii_1"]),
        &[None, Some("ii_2"), Some("ii_2")],
    )
    .await;
}

#[tokio::test]
async fn a_part_of_a_list_is_an_error() {
    let endless = [
        page(&["ii_3"], true),
        page(&["ii_2"], true),
        page(&["ii_1"], true),
    ];
    let too_long = "unavailable: the list has more than 3 pages";
    check(&endless, Err(too_long), &[None, Some("ii_3"), Some("ii_2")]).await;
    let no_cursor = [page(&["ii_3"], true), page(&[], true)];
    let too_long = "unavailable: the list has more than 2 pages";
    check(&no_cursor, Err(too_long), &[None, Some("ii_3")]).await;
    let rejected = [page(&["ii_3"], true), error(404, "resource_missing")];
    check(&rejected, Err("rejected: 404"), &[None, Some("ii_3")]).await;
    // An item without a member that is needed may be the one that is looked for.
    let data =
        r#"{"object":"list","has_more":false,"data":[{"id":"ii_1","object":"invoiceitem"}]}"#;
    let expected = "unavailable: the response cannot be decoded";
    check(&[respond(200, data)], Err(expected), &[None]).await;
}

#[tokio::test]
async fn the_items_of_a_charge_are_found_on_any_page() {
    let check = async |charge: &str, expected: &[&str]| {
        let last = page(&["ii_1", "ii_3"], false);
        let bench = Bench::new(&[page(&["ii_3", "ii_2"], true), last]);
        let found = bench
            .client
            .invoice_items_of_charge(charge, &customer(), None)
            .await;
        let found = found.unwrap();
        let ids: Vec<&str> = found.iter().map(|item| item.id.as_str()).collect();
        assert_eq!(ids, expected, "{charge}");
        assert!(bench.is_finished(), "not read to the end");
    };
    check("chg_ii_1", &["ii_1"]).await;
    check("chg_ii_2", &["ii_2"]).await;
    check("chg_ii_3", &["ii_3", "ii_3"]).await;
    check("chg_ii_9", &[]).await;
}
