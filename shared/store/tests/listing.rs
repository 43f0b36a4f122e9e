//! Lists: every item once and in order, for any page size and any cursor.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use tollgate_domain::billing::Charge;
use tollgate_domain::customer::Customer;
use tollgate_domain::id::{CustomerId, PlanId};
use tollgate_domain::key::{KeyRecord, Owner};
use tollgate_domain::page::Page;
use tollgate_domain::submission::{ChargeStatus, LedgerCharge};
use tollgate_domain::usage::{Aggregate, Endpoint};
use tollgate_local_aws::fixture::Fixture;
use tollgate_store::schema::{BILLABLE_SHARDS, REGISTRY, USAGE};
use tollgate_testing::p;
use tollgate_testing::stored::{items, table_name, text};
use tollgate_testing::usage::endpoint_usage;

mod common;

use common::{
    Event, Key, NOW, all_billable, call, charge, create_customer, customer, fixture, put, record,
    write_usage,
};

/// Reads all pages after a cursor, none of which may be longer than `limit`. Returns their items, with
/// their cursors.
async fn read_pages<T>(
    limit: usize,
    mut after: Option<String>,
    page: impl AsyncFn(Option<&str>) -> Page<(String, T)>,
) -> Vec<(String, T)> {
    let mut all = Vec::new();
    loop {
        let Page { items, next } = page(after.as_deref()).await;
        assert!(items.len() <= limit, "{} in a page", items.len());
        all.extend(items);
        if next.is_none() {
            return all;
        }
        assert_ne!(next, after, "a page whose cursor is its own");
        after = next;
    }
}

/// Checks that pages of every size contain these items in this order, from the beginning and after every
/// item. Returns the items' cursors.
async fn check<T: Clone + PartialEq + std::fmt::Debug>(
    expected: &[T],
    page: impl AsyncFn(Option<&str>, usize) -> Page<(String, T)>,
) -> Vec<String> {
    let mut cursors = Vec::new();
    for limit in [1, 2, 3, 100] {
        let all = read_pages(limit, None, async |after| page(after, limit).await).await;
        let items: Vec<T>;
        (cursors, items) = all.into_iter().unzip();
        assert_eq!(items, expected, "pages of {limit}");
    }
    for (at, cursor) in cursors.iter().enumerate() {
        for limit in [2, 100] {
            let after = Some(cursor.clone());
            let rest = read_pages(limit, after, async |after| page(after, limit).await).await;
            let rest: Vec<T> = rest.into_iter().map(|(_, item)| item).collect();
            assert_eq!(rest, expected[at + 1..], "pages of {limit} after {cursor}");
        }
    }
    cursors
}

/// Ids of customers of which one is the beginning of another, or differs after a common beginning.
const NEIGHBOURS: [&str; 8] = [
    "ACME", "acm", "acme", "acme-2", "acme.x", "acme0", "acme_", "acmee",
];

/// Returns a fixture with keys of an admin and of all neighbours, and the keys in the order of the list,
/// which is the reverse order of their ids.
async fn with_keys_of_neighbours() -> (Fixture, Vec<KeyRecord>) {
    let at = fixture();
    let mut keys = Vec::new();
    let mut seed = 1_000;
    let mut add = async |owner: Owner| {
        for created_at in [
            "2025-12-31T23:59:59.999Z",
            "2026-01-01T00:00:00Z",
            "2026-01-01T00:00:00.001Z",
            "2026-11-20T09:00:00.25Z",
        ] {
            seed -= 1;
            let mut key = Key::of(owner.clone(), seed);
            key.record.created_at = p(created_at);
            key.create(&at).await;
            keys.push(key.record);
        }
    };
    add(Owner::Admin).await;
    for id in NEIGHBOURS {
        create_customer(&at, id).await;
        add(Owner::Customer(p(id))).await;
    }
    // A hyphen sorts after `#`, and `acme-2#…` before `acme.x#…`: a shorter id comes first.
    keys.sort_by_key(|key| {
        let customer = key.owner.customer().map_or("", CustomerId::as_str);
        (format!("{customer}#"), key.created_at)
    });
    (at, keys)
}

#[tokio::test]
async fn all_keys_are_listed_by_customer_and_age() {
    let (at, keys) = with_keys_of_neighbours().await;
    check(&keys, async |after, limit| {
        at.store.list_keys(None, after, limit).await.unwrap()
    })
    .await;
}

#[tokio::test]
async fn the_keys_of_a_customer_are_listed_without_its_neighbours() {
    let (at, keys) = with_keys_of_neighbours().await;
    let mut listed = 0;
    for id in NEIGHBOURS {
        let id: CustomerId = p(id);
        let of_id = keys.iter().filter(|key| key.owner.customer() == Some(&id));
        let of_id: Vec<KeyRecord> = of_id.cloned().collect();
        let cursors = check(&of_id, async |after, limit| {
            at.store.list_keys(Some(&id), after, limit).await.unwrap()
        })
        .await;
        listed += cursors.len();
        for other in NEIGHBOURS.iter().map(|other| p(other)) {
            if other != id {
                let page = at.store.list_keys(Some(&other), Some(&cursors[0]), 100);
                let page = page.await.unwrap();
                assert_eq!(
                    (page.items, page.next),
                    (vec![], None),
                    "{other} after {id}"
                );
            }
        }
    }
    assert_eq!(listed, 4 * NEIGHBOURS.len());
}

#[tokio::test]
async fn keys_created_at_the_same_instant_are_each_listed() {
    let at = fixture();
    create_customer(&at, "acme").await;
    let mut keys = Vec::new();
    for seed in 1..=5 {
        let key = Key::of_acme(seed);
        key.create(&at).await;
        keys.push(key.record);
    }
    check(&keys, async |after, limit| {
        at.store
            .list_keys(Some(&p("acme")), after, limit)
            .await
            .unwrap()
    })
    .await;
}

#[tokio::test]
async fn a_customer_without_keys_has_an_empty_list() {
    let (at, _) = with_keys_of_neighbours().await;
    let page = at.store.list_keys(Some(&p("ac")), None, 100).await.unwrap();
    assert_eq!((page.items, page.next), (vec![], None));
}

#[tokio::test]
async fn all_customers_are_listed_by_id() {
    let at = fixture();
    for id in NEIGHBOURS.iter().rev() {
        create_customer(&at, id).await;
    }
    // A key is not listed among customers.
    Key::of_acme(1).create(&at).await;
    let customers = NEIGHBOURS.map(customer);
    let cursors = check(&customers, async |after, limit| {
        at.store.list_customers(after, limit).await.unwrap()
    })
    .await;
    assert_eq!(cursors, NEIGHBOURS);
}

#[tokio::test]
async fn more_customers_than_fit_in_a_page_are_each_listed() {
    let at = fixture();
    let ids: Vec<String> = (0..205).map(|n| format!("cus-{n:03}")).collect();
    for id in &ids {
        create_customer(&at, id).await;
    }
    for limit in [1, 100] {
        let all = read_pages(limit, None, async |after| {
            at.store.list_customers(after, limit).await.unwrap()
        });
        let cursors: Vec<String> = all.await.into_iter().map(|(cursor, _)| cursor).collect();
        assert_eq!(cursors, ids, "pages of {limit}");
    }
}

#[tokio::test]
async fn the_plans_of_any_number_of_customers_are_found() {
    let at = fixture();
    let mut customers: Vec<Customer> = (0..230).map(|n| customer(&format!("c-{n}"))).collect();
    let plans: [PlanId; 3] = [p("free"), p("pro"), p("enterprise")];
    for (n, customer) in customers.iter_mut().enumerate() {
        customer.plan = plans[n % 3].clone();
        at.store.create_customer(customer, None).await.unwrap();
    }
    for wanted in [0, 1, 99, 100, 101, 200, 230] {
        let known = &customers[..wanted];
        let unknown = (0..3).map(|n| p(&format!("unknown-{n}")));
        let ids = known.iter().map(|customer| customer.id.clone());
        let ids: BTreeSet<CustomerId> = ids.chain(unknown).collect();
        let found = at.store.plans_of(&ids).await.unwrap();
        let known = known.iter().map(|c| (c.id.clone(), c.plan.clone()));
        assert_eq!(found, known.collect(), "{wanted}");
    }
    assert!(
        at.store
            .plans_of(&BTreeSet::new())
            .await
            .unwrap()
            .is_empty()
    );
}

/// A response contains at most 16 MB: the other keys are left unread, as by a throttled table.
#[tokio::test]
async fn customers_left_unread_by_a_full_response_are_requested_again() {
    let at = fixture();
    create_customer(&at, "acme").await;
    let mut item = items(&at, REGISTRY).remove(0);
    item["name"] = json!({ "S": "x".repeat(390_000) });
    let ids: Vec<String> = (0..50).map(|n| format!("large-{n}")).collect();
    for id in &ids {
        item["pk"] = json!({ "S": format!("CUSTOMER#{id}") });
        item["id"] = json!({ "S": id });
        put(&at, REGISTRY, &item);
    }
    let ids: BTreeSet<CustomerId> = ids.iter().map(|id| p(id)).collect();
    let found = at.store.plans_of(&ids).await.unwrap();
    assert_eq!(found.into_keys().collect::<BTreeSet<_>>(), ids);
}

#[tokio::test]
async fn each_customer_with_chargeable_calls_in_a_month_is_listed_once() {
    let at = fixture();
    let (mut charged, mut id) = (BTreeSet::new(), 0);
    let mut record_usage = async |calls: &[(&str, &str, u16)], is_charged: bool| {
        for _ in 0..40 {
            id += 1;
            let customer = format!("cus-{id}");
            let calls = calls.iter();
            let calls: Vec<_> = calls
                .map(|(t, plan, s)| call(t, plan, "/ping", *s))
                .collect();
            for n in 0..2 {
                let event = Event::new(&customer, &format!("e-{id}-{n}"), &calls);
                write_usage(&at, &event).await;
            }
            if is_charged {
                charged.insert(p(&customer));
            }
        }
    };
    let october = "2026-10-31T23:59:59.999Z";
    record_usage(&[(NOW, "pro", 200)], true).await;
    record_usage(
        &[(NOW, "free", 200), (NOW, "pro", 404), (october, "pro", 200)],
        true,
    )
    .await;
    record_usage(&[(NOW, "free", 200)], false).await;
    record_usage(&[(NOW, "enterprise", 200)], false).await;
    record_usage(&[(NOW, "pro", 500)], false).await;
    record_usage(&[(NOW, "free", 200), (october, "pro", 200)], false).await;

    let listed = all_billable(&at.store, p("2026-11")).await;
    assert_eq!(listed.len(), charged.len());
    assert_eq!(BTreeSet::from_iter(listed), charged);
    assert_eq!(all_billable(&at.store, p("2026-10")).await.len(), 80);
    assert_eq!(all_billable(&at.store, p("2026-12")).await, []);

    let months = items(&at, USAGE).into_iter();
    let shards: BTreeSet<String> = months
        .map(|item| text(&item, "billable_month"))
        .filter(|month| month.starts_with("2026-11#"))
        .collect();
    assert_eq!(shards.len(), BILLABLE_SHARDS as usize, "{shards:?}");
}

#[tokio::test]
async fn a_customer_that_changes_to_a_charging_plan_is_listed_from_then_on() {
    let at = fixture();
    let calls = ["free", "pro", "free"].map(|plan| call(NOW, plan, "/ping", 200));
    let listed = async || all_billable(&at.store, p("2026-11")).await;
    write_usage(&at, &Event::new("acme", "e-1", &calls[..1])).await;
    assert_eq!(listed().await, []);
    for (id, call) in [("e-2", &calls[1..2]), ("e-3", &calls[2..])] {
        write_usage(&at, &Event::new("acme", id, call)).await;
        assert_eq!(listed().await, [p("acme")]);
    }
}

/// Puts items, 25 at a time.
fn put_all(at: &Fixture, items: impl Iterator<Item = serde_json::Value>) {
    let puts: Vec<_> = items
        .map(|item| json!({ "PutRequest": { "Item": item } }))
        .collect();
    for puts in puts.chunks(25) {
        let request = json!({ "RequestItems": { table_name(USAGE): puts } });
        let target = "DynamoDB_20120810.BatchWriteItem";
        let (status, response) = at.aws.call(target, &request.to_string());
        assert_eq!(status, 200, "{response}");
    }
}

/// A response to a query contains at most 1 MB.
#[tokio::test]
async fn more_billable_customers_than_fit_in_a_response_are_each_listed() {
    let at = fixture();
    let ids: BTreeSet<String> = (0..11_000).map(|n| format!("{n:064}")).collect();
    let item = |id: &String| {
        json!({
            "pk": { "S": id },
            "sk": { "S": "MONTH#2026-11" },
            "billable_month": { "S": "2026-11#3" },
        })
    };
    put_all(&at, ids.iter().map(item));
    let first = at.store.billable_customers(p("2026-11"), None, None).await;
    let first = first.unwrap();
    assert_eq!(first.items, []);
    assert!(first.next.is_some());
    let (listed, pages) = pages_of_billable(&at, None).await;
    assert_eq!(listed.len(), ids.len());
    assert_eq!(BTreeSet::from_iter(listed), ids);
    assert!(
        pages > BILLABLE_SHARDS,
        "the items of one shard fit in a page"
    );
}

/// Lists November's billable customers. Returns them and the number of pages.
#[expect(clippy::unwrap_used, reason = "a failed read fails the test")]
async fn pages_of_billable(at: &Fixture, limit: Option<i32>) -> (Vec<String>, u32) {
    let (mut listed, mut pages) = (Vec::new(), 0);
    let mut after: Option<String> = None;
    loop {
        let page = at
            .store
            .billable_customers(p("2026-11"), after.as_deref(), limit);
        let page = page.await.unwrap();
        pages += 1;
        let found = i32::try_from(page.items.len()).unwrap();
        assert!(limit.is_none_or(|limit| found <= limit), "{found}");
        listed.extend(page.items.into_iter().map(String::from));
        after = page.next;
        if after.is_none() {
            return (listed, pages);
        }
    }
}

/// For any page size, a customer whose days are sharded is listed once, and a page has as many customers as it may.
#[tokio::test]
async fn billable_customers_are_listed_once_in_pages_of_any_size() {
    let at = fixture();
    let item = |id: &str, sk: String| {
        json!({
            "pk": { "S": id },
            "sk": { "S": sk },
            "billable_month": { "S": "2026-11#3" },
        })
    };
    let days = |id: &'static str, shards: &'static [&str]| {
        (1..=30).flat_map(move |day| {
            let shards = shards.iter();
            shards.map(move |shard| item(id, format!("DAY#2026-11-{day:02}{shard}")))
        })
    };
    put_all(&at, days("acme", &["", "/1", "/2", "/3"]));
    put_all(&at, days("globex", &[""]));
    put_all(&at, days("initech", &[""]));
    // As earlier releases stored it.
    let month = item("umbrella", "MONTH#2026-11".to_owned());
    put_all(&at, std::iter::once(month));
    for limit in 1..=10 {
        let (listed, pages) = pages_of_billable(&at, Some(limit)).await;
        let expected = ["acme", "globex", "initech", "umbrella"];
        assert_eq!(listed, expected, "{limit}");
        let full = u32::try_from(expected.len().div_ceil(usize::try_from(limit).unwrap()));
        // Those of the customer with shards take some more.
        assert!(
            pages <= full.unwrap() + BILLABLE_SHARDS + 4,
            "{limit}: {pages}"
        );
    }
}

#[tokio::test]
async fn an_invalid_cursor_of_billable_customers_is_rejected() {
    let at = fixture();
    for cursor in [
        "",
        "8",
        "x",
        "3\nacme",
        "3\na b\nMONTH#2026-11",
        "3\nacme\n",
    ] {
        let page = at
            .store
            .billable_customers(p("2026-11"), Some(cursor), None);
        assert!(page.await.unwrap_err().is_invalid_cursor(), "{cursor:?}");
    }
}

#[tokio::test]
async fn more_endpoints_than_fit_in_a_response_are_each_read() {
    let at = fixture();
    let route = |n: usize| format!("/{n:0255}");
    let item = |n: usize| {
        json!({
            "pk": { "S": "acme" },
            "sk": { "S": format!("ENDPOINT#2026-11-22#GET {}", route(n)) },
            "calls": { "N": n.to_string() },
        })
    };
    put_all(&at, (0..4_000).map(item));
    let mut of_neighbour = item(0);
    of_neighbour["pk"] = json!({ "S": "acme-2" });
    let mut of_other_day = item(0);
    of_other_day["sk"] = json!({ "S": "ENDPOINT#2026-11-23#GET /" });
    put_all(&at, [of_neighbour, of_other_day].into_iter());

    let stored = endpoint_usage(&at.store, "acme", "2026-11-22").await;
    let expected = (0..4_000).map(|n| {
        let endpoint = Endpoint {
            method: "GET".into(),
            route: route(n),
        };
        let aggregate = Aggregate {
            calls: n as u64,
            ..Aggregate::default()
        };
        (endpoint, aggregate)
    });
    assert!(stored == expected.collect::<BTreeMap<_, _>>());
}

#[tokio::test]
async fn more_charges_than_fit_in_a_response_are_each_listed() {
    let at = fixture();
    let mut before = tollgate_domain::billing::PeriodLedger::default();
    for number in 1..=4 {
        // Four of them do not fit in a response, which ends with the one that reaches 1 MB, or, in the
        // embedded engine, before it.
        let mut charge = charge(number);
        charge.usage_digest = "x".repeat(390_000);
        record(&at, &charge, before.clone()).await;
        before.charge_count += 1;
        before.cents = before.cents.plus(charge.cents);
        before.overage_calls = charge.to_call;
    }
    let (mut numbers, mut from, mut pages) = (Vec::new(), 1, 0);
    loop {
        let page = at
            .store
            .charges(&p("acme"), p("2026-11"), from)
            .await
            .unwrap();
        pages += 1;
        let number = |recorded: LedgerCharge| recorded.charge.number;
        numbers.extend(page.items.into_iter().map(number));
        match page.next {
            Some(next) => from = p(&next),
            None => break,
        }
    }
    assert_eq!(numbers, [1, 2, 3, 4]);
    assert!(pages > 1, "they fit in a response");
}

#[tokio::test]
async fn a_cursor_that_no_page_returned_is_valid_for_keys() {
    let (at, keys) = with_keys_of_neighbours().await;
    let acme: CustomerId = p("acme");
    let list = async |customer: Option<&CustomerId>, after: &str| {
        let page = at.store.list_keys(customer, Some(after), 100).await;
        page.unwrap().items.len()
    };
    assert_eq!(list(None, "").await, keys.len());
    assert_eq!(list(None, "~").await, 0);
    assert_eq!(list(Some(&acme), "").await, 4);
    assert_eq!(list(Some(&acme), "acme#").await, 4);
    assert_eq!(list(Some(&acme), "acme#2026-01-01").await, 3);
    assert_eq!(list(Some(&acme), "acme#~").await, 0);
    assert_eq!(list(Some(&acme), "acme#~~").await, 0);
    assert_eq!(list(Some(&acme), "acm").await, 0);
    assert_eq!(list(Some(&acme), "acme#é").await, 0);
}

#[tokio::test]
async fn open_charges_are_listed_when_they_are_due_over_all_pages() {
    let at = fixture();
    let mut expected = BTreeSet::new();
    for n in 0..40 {
        let customer = format!("c-{n:02}");
        let created_at = if n % 2 == 0 {
            NOW
        } else {
            "2026-11-22T10:00:01Z"
        };
        let charge = Charge {
            customer: p(&customer),
            id: format!("ci_{customer}_2026-11_0001"),
            created_at: p(created_at),
            ..common::charge(1)
        };
        record(&at, &charge, common::charged(0)).await;
        if n % 2 == 0 {
            expected.insert(customer);
        }
    }
    for limit in [1, 3, 100] {
        let (mut found, mut after) = (Vec::new(), None::<String>);
        loop {
            let status = ChargeStatus::Pending;
            let page = at
                .store
                .open_charges(status, Some(p(NOW)), after.as_deref(), Some(limit));
            let page = page.await.unwrap();
            found.extend(
                page.items
                    .into_iter()
                    .map(|charge| charge.customer.to_string()),
            );
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found.len(), expected.len(), "{limit}");
        assert_eq!(BTreeSet::from_iter(found), expected, "{limit}");
    }
    for invalid in ["", "x", "99", "1\na", "1\na\nb\nc\nd"] {
        let page = at
            .store
            .open_charges(ChargeStatus::Pending, Some(p(NOW)), Some(invalid), None);
        assert!(page.await.unwrap_err().is_invalid_cursor(), "{invalid:?}");
    }
}
