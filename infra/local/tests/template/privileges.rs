//! Check of each role's privileges: writing and reading each kind of item, as stated in ARCHITECTURE.md, and
//! putting each kind of event on the bus.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tollgate_domain::event::EventKind;
use tollgate_domain::usage::{ADJUSTMENT_TYPE, EVENT_TYPE};
use tollgate_local_aws::template::Stack;
use tollgate_local_aws::{LocalAws, Role};
use tollgate_runtime::{Clock, Entropy};
use tollgate_store::schema::{
    BILLABLE, BILLING, COUNTERS, EVENTS, LISTING, LOGGED, OPEN_CHARGES, OPEN_QUARANTINE, OUTBOX,
    QUARANTINE, REGISTRY, TABLES, Table, USAGE, USAGE_LOG,
};

const ARCHITECTURE: &str = include_str!("../../../../ARCHITECTURE.md");

/// A kind of item, with examples of its partition keys in the table and its index.
struct Kind {
    /// Name in ARCHITECTURE.md.
    name: &'static str,
    table: Table,
    keys: &'static [&'static str],
    /// Partition key in the table's index, if items of this kind are in one.
    index_key: Option<&'static str>,
}

const KINDS: [Kind; 23] = [
    Kind {
        name: "customers",
        table: REGISTRY,
        keys: &["CUSTOMER#acme"],
        index_key: Some("customers"),
    },
    Kind {
        name: "keys of customers",
        table: REGISTRY,
        keys: &["KEY#d1", "KEYID#key_1", "PREFIX#tg_live_AbCd1234"],
        index_key: Some("keys"),
    },
    Kind {
        name: "admin keys",
        table: REGISTRY,
        keys: &[
            "ADMIN#KEY#d1",
            "ADMIN#KEYID#key_1",
            "ADMIN#PREFIX#tg_admin_AbCd1234",
        ],
        index_key: Some("keys"),
    },
    Kind {
        name: "repeatable requests",
        table: REGISTRY,
        keys: &[
            "IDEMPOTENCY#create-key#key_1#a",
            "IDEMPOTENCY#rotate-key#key_1#a",
            "IDEMPOTENCY#create-customer#key_1#a",
            "IDEMPOTENCY#checkout#key_1#a",
        ],
        index_key: None,
    },
    Kind {
        name: "links of Stripe customers",
        table: REGISTRY,
        keys: &["STRIPE#CUSTOMER#cus_1"],
        index_key: None,
    },
    Kind {
        name: "checkout sessions",
        table: REGISTRY,
        keys: &["STRIPE#CHECKOUT#cs_1", "STRIPE#OPEN#acme"],
        index_key: None,
    },
    Kind {
        name: "handled events of Stripe",
        table: REGISTRY,
        keys: &["STRIPE#EVENT#evt_1"],
        index_key: None,
    },
    Kind {
        name: "follow-ups",
        table: REGISTRY,
        keys: &["FOLLOWUP#CUSTOMER#acme", "FOLLOWUP#INVOICE#acme"],
        index_key: Some("follow-ups"),
    },
    Kind {
        name: "counters",
        table: COUNTERS,
        keys: &["HOUR#key_1#2026-11-22T10", "MONTH#acme#2026-11"],
        index_key: None,
    },
    Kind {
        name: "aggregates and adjustments",
        table: USAGE,
        keys: &["acme"],
        index_key: Some("2026-11#3"),
    },
    Kind {
        name: "aggregates of all customers",
        table: USAGE,
        keys: &["ALL#2026-11"],
        index_key: None,
    },
    Kind {
        name: "reconciliations",
        table: USAGE,
        keys: &["RECONCILIATION#2026-11-22"],
        index_key: None,
    },
    Kind {
        name: "marks of overage",
        table: USAGE,
        keys: &["OVERAGE#2026-11#3", "LATE#2026-11#3"],
        index_key: None,
    },
    Kind {
        name: "counted usage events",
        table: USAGE_LOG,
        keys: &["tollgate:ping#e-1", "#LOG#acme", "#BODY#1#0#0"],
        index_key: Some("acme"),
    },
    Kind {
        name: "claims on usage events",
        table: USAGE_LOG,
        keys: &["#CLAIMS#156d8e8b1", "#ATTEMPT#019ac#0"],
        index_key: None,
    },
    Kind {
        name: "time of claims",
        table: USAGE_LOG,
        keys: &["#CLAIMS_SINCE"],
        index_key: None,
    },
    Kind {
        name: "quarantined usage",
        table: QUARANTINE,
        keys: &["tollgate:ping#e-1", "#d1"],
        index_key: Some("yes"),
    },
    Kind {
        name: "period ledgers and charges",
        table: BILLING,
        keys: &["acme#2026-11", "MONTH#2026-11"],
        index_key: Some("failed#3"),
    },
    Kind {
        name: "plans",
        table: BILLING,
        keys: &["PLANS"],
        index_key: None,
    },
    Kind {
        name: "events",
        table: EVENTS,
        keys: &["EVENT#evt_1"],
        index_key: Some("new"),
    },
    Kind {
        name: "numbered events",
        table: EVENTS,
        keys: &["LOG", "SEQUENCE"],
        index_key: None,
    },
    Kind {
        name: "webhooks",
        table: EVENTS,
        keys: &["WEBHOOK"],
        index_key: None,
    },
    Kind {
        name: "secrets of webhooks",
        table: EVENTS,
        keys: &["SECRET#wh_1"],
        index_key: None,
    },
];

/// A stack with the means to test its roles' permissions.
struct Permissions {
    stack: Stack,
    aws: LocalAws,
}

impl Permissions {
    fn from_template(template: &str) -> Self {
        let stack = Stack::parse(template, "test").unwrap();
        let rule = crate::Template::from_stack(&stack).unwrap().rule;
        let aws = LocalAws::in_memory(rule, Clock::system(), Entropy::seeded(1)).unwrap();
        aws.create_tables("test").unwrap();
        Self { stack, aws }
    }

    /// Returns the functions' logical ids and roles.
    fn roles(&self) -> Vec<(String, Role)> {
        let functions = self.stack.of_type("AWS::Serverless::Function");
        functions
            .map(|(id, _)| (id.to_owned(), self.stack.role(id).unwrap()))
            .collect()
    }

    fn allows(&self, role: &Role, target: &str, body: &Value) -> bool {
        let (_, response) = self.aws.in_role(role).call(target, &body.to_string());
        !response.contains("AccessDeniedException")
    }

    fn is_written(&self, role: &Role, kind: &Kind) -> bool {
        kind.keys.iter().any(|pk| {
            let key = key_of(&kind.table, pk);
            let table = format!("test-{}", kind.table.name);
            let put = json!({ "TableName": table, "Item": key });
            let update = json!({ "TableName": table, "Key": key });
            let calls = [
                ("PutItem", put),
                ("UpdateItem", update.clone()),
                ("DeleteItem", update),
            ];
            let mut calls = calls.into_iter();
            calls.any(|(name, body)| self.allows(role, &format!("DynamoDB_20120810.{name}"), &body))
        })
    }

    fn is_read(&self, role: &Role, kind: &Kind) -> bool {
        let table = format!("test-{}", kind.table.name);
        let query = |name: &str, value: &str| {
            json!({
                "TableName": table,
                "KeyConditionExpression": format!("{name} = :value"),
                "ExpressionAttributeValues": { ":value": { "S": value } },
            })
        };
        let mut calls = vec![("Scan", json!({ "TableName": table }))];
        for pk in kind.keys {
            let key = key_of(&kind.table, pk);
            let one = json!({ "TableName": table, "Key": key });
            let batch = json!({ "RequestItems": { (table.clone()): { "Keys": [key] } } });
            let mut check = one.clone();
            check["ConditionExpression"] = "attribute_exists(pk)".into();
            let check = json!({ "TransactItems": [{ "ConditionCheck": check }] });
            calls.extend([("GetItem", one), ("BatchGetItem", batch)]);
            calls.extend([
                ("TransactWriteItems", check),
                ("Query", query(kind.table.hash, pk)),
            ]);
        }
        if let Some(value) = kind.index_key {
            let [index] = kind.table.indexes else {
                panic!("{} has another number of indexes", kind.table.name);
            };
            let mut query = query(index.hash, value);
            query["IndexName"] = index.name.into();
            calls.push(("Query", query));
        }
        let mut calls = calls.into_iter();
        calls.any(|(name, body)| self.allows(role, &format!("DynamoDB_20120810.{name}"), &body))
    }
}

fn key_of(table: &Table, pk: &str) -> Value {
    let mut key = json!({ (table.hash): { "S": pk } });
    if let Some(range) = table.range {
        key[range] = json!({ "S": "a" });
    }
    key
}

/// Returns the name of a function in the tree and the documents: `admin-api` for `AdminApiFunction`.
fn name_of(logical_id: &str) -> String {
    let mut name = String::new();
    for letter in logical_id.trim_end_matches("Function").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}

const HEADER: &str = "| kind of item | table | written by | read by |\n|---|---|---|---|\n";

/// Generates the rows of the table in ARCHITECTURE.md from the roles of the template.
fn rows(template: &str) -> String {
    let permissions = Permissions::from_template(template);
    let roles = permissions.roles();
    let functions = |may: &dyn Fn(&Role) -> bool| {
        let allowed = roles.iter().filter(|(_, role)| may(role));
        let names: Vec<String> = allowed.map(|(id, _)| name_of(id)).collect();
        match names.is_empty() {
            true => "–".to_owned(),
            false => names.join(", "),
        }
    };
    let rows = KINDS.iter().map(|kind| {
        let writers = functions(&|role| permissions.is_written(role, kind));
        let readers = functions(&|role| permissions.is_read(role, kind));
        let (name, table) = (kind.name, kind.table.name);
        format!("| {name} | {table} | {writers} | {readers} |\n")
    });
    rows.collect()
}

#[test]
fn the_table_in_the_architecture_is_up_to_date() {
    let (before, rest) = ARCHITECTURE.split_once(HEADER).unwrap();
    let end = rest.find("\n\n").unwrap() + 1;
    let rows = rows(include_str!("../../../../template.yaml"));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let page = format!("{before}{HEADER}{rows}{}", &rest[end..]);
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../ARCHITECTURE.md");
        std::fs::write(path, page).unwrap();
        return;
    }
    assert!(
        rest[..end] == rows,
        "the table of writers in ARCHITECTURE.md is stale; to update it: UPDATE_DOCS=1 cargo test \
         --workspace --test template"
    );
}

/// Reads the writers and readers of each kind of item from ARCHITECTURE.md.
fn stated() -> BTreeMap<&'static str, [BTreeSet<String>; 2]> {
    let (_, table) = ARCHITECTURE
        .split_once("| kind of item | table | written by | read by |\n")
        .unwrap();
    let rows = table
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let functions = |cell: &str| {
            let functions = cell.split(", ").filter(|name| *name != "–");
            functions.map(str::to_owned).collect()
        };
        (cells[1], [functions(cells[3]), functions(cells[4])])
    })
    .collect()
}

/// Returns the discrepancies between the roles and ARCHITECTURE.md, and wrong permissions for events.
pub(crate) fn defects(template: &str) -> Vec<String> {
    let permissions = Permissions::from_template(template);
    let stated = stated();
    let mut defects = Vec::new();
    for kind in &KINDS {
        let stated = stated.get(kind.name).cloned().unwrap_or_default();
        let [writes, reads] = &stated;
        for (id, role) in permissions.roles() {
            let name = name_of(&id);
            for (may, stated, what) in [
                (permissions.is_written(&role, kind), writes, "write"),
                (permissions.is_read(&role, kind), reads, "read"),
            ] {
                match (may, stated.contains(&name)) {
                    (true, false) => defects.push(format!("{name} may {what} {}", kind.name)),
                    (false, true) => defects.push(format!("{name} may not {what} {}", kind.name)),
                    _ => {}
                }
            }
        }
    }
    defects.extend(put_events(&permissions));
    defects
}

/// Returns wrong permissions for events: a metered function may send usage with its own source, the event publisher
/// other events with theirs, and neither anything else.
fn put_events(permissions: &Permissions) -> Vec<String> {
    let roles = permissions.roles();
    let own = |id: &str| format!("tollgate:{}", permissions.stack.function_name(id).unwrap());
    let is_metered = |id: &str| {
        let variables = permissions.stack.variables(id).unwrap();
        variables.contains_key("TOLLGATE_EVENT_BUS")
    };
    let mut sources: Vec<String> = roles.iter().map(|(id, _)| own(id)).collect();
    let others = [
        "tollgate:quarantine",
        "tollgate:",
        "tollgate.metering",
        "support",
        events::SOURCE,
    ];
    sources.extend(others.map(str::to_owned));
    let mut defects = Vec::new();
    for (id, role) in &roles {
        let published = EventKind::ChargeFailed.as_str();
        for detail_type in [EVENT_TYPE, ADJUSTMENT_TYPE, "tollgate.usage.v2", published] {
            for source in &sources {
                let event = json!({
                    "EventBusName": "test-usage", "DetailType": detail_type, "Source": source,
                    "Detail": "{}",
                });
                let body = json!({ "Entries": [event] });
                let may = permissions.allows(role, "AWSEvents.PutEvents", &body);
                let is_own = is_metered(id) && detail_type == EVENT_TYPE && *source == own(id);
                let name = name_of(id);
                let is_published = detail_type == published && source == events::SOURCE;
                let should = is_own || (name == "event-publisher" && is_published);
                match (may, should) {
                    (true, false) => {
                        defects.push(format!("{name} may put {detail_type} of {source}"));
                    }
                    (false, true) => defects.push(format!("{name} may not send its own events")),
                    _ => {}
                }
            }
        }
    }
    defects
}

#[test]
fn every_table_and_index_has_kinds_of_items() {
    for table in TABLES {
        let mut kinds = KINDS.iter().filter(|kind| kind.table.name == table.name);
        let has_indexed = kinds.clone().any(|kind| kind.index_key.is_some());
        assert!(kinds.next().is_some(), "{}", table.name);
        assert_eq!(has_indexed, !table.indexes.is_empty(), "{}", table.name);
    }
    let indexes = [
        LISTING,
        BILLABLE,
        LOGGED,
        OPEN_QUARANTINE,
        OPEN_CHARGES,
        OUTBOX,
    ];
    let indexes = indexes.map(|index| index.name);
    let all = TABLES.iter().flat_map(|table| table.indexes);
    assert_eq!(all.map(|index| index.name).collect::<Vec<_>>(), indexes);
    let named: BTreeSet<&str> = KINDS.iter().map(|kind| kind.name).collect();
    assert_eq!(stated().into_keys().collect::<BTreeSet<_>>(), named);
}

/// UpdateItem creates a missing item. The roles that may change or revoke keys therefore must not allow the
/// attributes that make an item a valid key, or its owner or role.
#[test]
fn an_update_cannot_create_a_key() {
    let permissions = Permissions::from_template(tollgate_local_aws::template::TEMPLATE);
    let may = |function: &str, pk: &str, update: &str| {
        let role = permissions.stack.role(function).unwrap();
        let body = json!({
            "TableName": "test-registry",
            "Key": { "pk": { "S": pk } },
            "UpdateExpression": update,
            "ExpressionAttributeNames": { "#id": "id", "#role": "role" },
            "ExpressionAttributeValues": { ":a": { "S": "a" } },
        });
        permissions.allows(&role, "DynamoDB_20120810.UpdateItem", &body)
    };
    let (customers, admins) = ("KEY#d1", "ADMIN#KEY#d1");
    for pk in [customers, admins] {
        assert!(may("KeysRevokeFunction", pk, "SET revoked_at = :a"));
        for update in [
            "SET #id = :a",
            "SET prefix = :a",
            "SET revoked_at = :a, expires_at = :a",
        ] {
            assert!(!may("KeysRevokeFunction", pk, update), "{pk} {update}");
        }
    }
    assert!(may("KeysUpdateFunction", customers, "SET expires_at = :a"));
    for update in [
        "SET customer = :a",
        "REMOVE customer",
        "SET #id = :a",
        "SET listing = :a",
    ] {
        assert!(!may("KeysUpdateFunction", customers, update), "{update}");
    }
    // Nor does a key get another role than it was created with.
    for function in [
        "KeysUpdateFunction",
        "KeysRevokeFunction",
        "AdminApiFunction",
    ] {
        for update in [
            "SET #role = :a",
            "SET #role = :a, revoked_at = :a",
            "REMOVE #role",
        ] {
            assert!(!may(function, customers, update), "{function} {update}");
        }
    }
    for pk in [admins, "CUSTOMER#acme", "KEYID#key_1"] {
        assert!(
            !may("KeysUpdateFunction", pk, "SET expires_at = :a"),
            "{pk}"
        );
    }
}

/// IAM cannot distinguish setting `revoked_at` from removing it, as ARCHITECTURE.md states: only the code
/// keeps a function that may revoke a key from reinstating it.
#[test]
fn only_roles_that_may_revoke_a_key_may_reinstate_it() {
    let permissions = Permissions::from_template(tollgate_local_aws::template::TEMPLATE);
    let may = |pk: &str, update: &str| {
        let body = json!({
            "TableName": "test-registry",
            "Key": { "pk": { "S": pk } },
            "UpdateExpression": update,
        });
        let may = permissions.roles().into_iter().filter_map(|(id, role)| {
            let may = permissions.allows(&role, "DynamoDB_20120810.UpdateItem", &body);
            may.then(|| name_of(&id))
        });
        may.collect::<BTreeSet<String>>()
    };
    let (customers, admins) = ("KEY#d1", "ADMIN#KEY#d1");
    let names = |names: &[&str]| -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    };
    let reinstate = names(&["admin-api", "keys-revoke", "keys-rotate", "keys-update"]);
    assert_eq!(may(customers, "REMOVE revoked_at"), reinstate);
    assert_eq!(may(admins, "REMOVE revoked_at"), names(&["keys-revoke"]));
    // Roles that only change keys do not allow the other attributes, such as the owner.
    let create = names(&["keys-rotate"]);
    for update in [
        "REMOVE customer",
        "REMOVE prefix",
        "REMOVE revoked_at, customer",
    ] {
        assert_eq!(may(customers, update), create, "{update}");
        assert_eq!(may(admins, update), BTreeSet::new(), "{update}");
    }
}

/// A call with one event that the role does not allow is denied as a whole.
#[test]
fn a_call_with_usage_and_an_adjustment_is_denied() {
    let permissions = Permissions::from_template(tollgate_local_aws::template::TEMPLATE);
    let role = permissions.stack.role("PingFunction").unwrap();
    let put = |detail_types: &[&str]| {
        let events = detail_types.iter().map(|detail_type| {
            json!({
                "EventBusName": "test-usage", "DetailType": detail_type, "Detail": "{}",
                "Source": "tollgate:test-ping",
            })
        });
        let body = json!({ "Entries": events.collect::<Vec<_>>() });
        permissions.allows(&role, "AWSEvents.PutEvents", &body)
    };
    assert!(put(&[EVENT_TYPE, EVENT_TYPE]));
    assert_eq!(permissions.aws.queue().counts().unwrap().queued, 2);
    assert!(!put(&[EVENT_TYPE, ADJUSTMENT_TYPE]));
    assert_eq!(permissions.aws.queue().counts().unwrap().queued, 2);
}

/// Checks the policy in docs/usage-event.md.
#[test]
fn the_documented_policy_allows_only_usage_of_its_own_source() {
    const PAGE: &str = include_str!("../../../../docs/usage-event.md");
    let (_, policy) = PAGE.split_once("```yaml\n").unwrap();
    let (policy, _) = policy.split_once("```").unwrap();
    let policy = policy.replace("arn:aws:events:eu-central-1:111122223333:", "");
    let policy: Value = yaml_serde::from_str(&policy).unwrap();
    let template = json!({ "Resources": {
        "Function": {
            "Type": "AWS::Serverless::Function",
            "Properties": { "Role": "ROLE" },
        },
        "Role": { "Properties": { "Policies": [{ "PolicyDocument": policy }] } },
    } });
    let template = template
        .to_string()
        .replace("\"ROLE\"", " !GetAtt Role.Arn");
    let role = Stack::parse(&template, "tollgate")
        .unwrap()
        .role("Function")
        .unwrap();
    let permissions = Permissions::from_template(tollgate_local_aws::template::TEMPLATE);
    let may = |detail_type: &str, source: &str| {
        let event = json!({
            "EventBusName": "tollgate-usage", "DetailType": detail_type, "Source": source,
            "Detail": "{}",
        });
        permissions.allows(&role, "AWSEvents.PutEvents", &json!({ "Entries": [event] }))
    };
    assert!(may(EVENT_TYPE, "my-batch-job"));
    assert!(!may(ADJUSTMENT_TYPE, "my-batch-job"));
    assert!(!may(EVENT_TYPE, "tollgate:tollgate-ping"));
}
