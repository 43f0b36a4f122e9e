//! Requests of instances to DynamoDB, by purpose, with the capacity units that the engine reports for them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tollgate_local_aws::{Call, LocalAws};

/// Purpose of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Reads a key.
    Key,
    /// Reads the customer of a key.
    Customer,
    /// Reads the plans.
    Plans,
    /// Reserves units of an hour.
    HourLease,
    /// Reserves units of a month.
    MonthLease,
    /// Releases units of an hour, or reports its calls.
    HourRelease,
    /// Releases units of a month, or reports its calls.
    MonthRelease,
    /// Reads something else.
    OtherRead,
    /// Writes something else.
    OtherWrite,
}

/// Number of requests, and their capacity units.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Consumed {
    /// Number of requests.
    pub requests: u64,
    /// Read or write units.
    pub units: f64,
}

/// Requests by purpose.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Requests(BTreeMap<Purpose, Consumed>);

/// Counts requests to the tables. Cheap to clone; clones share the counts.
#[derive(Debug, Clone)]
pub(super) struct Meter {
    aws: LocalAws,
    requests: Arc<Mutex<Requests>>,
}

impl Purpose {
    /// All purposes.
    pub const ALL: [Self; 9] = [
        Self::Key,
        Self::Customer,
        Self::Plans,
        Self::HourLease,
        Self::MonthLease,
        Self::HourRelease,
        Self::MonthRelease,
        Self::OtherRead,
        Self::OtherWrite,
    ];

    /// Returns the purpose's name in figures.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Customer => "customer",
            Self::Plans => "plans",
            Self::HourLease => "hour_lease",
            Self::MonthLease => "month_lease",
            Self::HourRelease => "hour_release",
            Self::MonthRelease => "month_release",
            Self::OtherRead => "other_read",
            Self::OtherWrite => "other_write",
        }
    }

    /// Returns whether requests with this purpose read.
    #[must_use]
    pub fn is_read(self) -> bool {
        matches!(
            self,
            Self::Key | Self::Customer | Self::Plans | Self::OtherRead
        )
    }

    fn of(operation: &str, request: &Value) -> Self {
        let pk = request["Key"]["pk"]["S"].as_str().unwrap_or_default();
        let kind = pk.split('#').next().unwrap_or_default();
        match (operation, kind) {
            ("GetItem", "KEY") => Self::Key,
            ("GetItem", "CUSTOMER") => Self::Customer,
            ("Query", _) => Self::Plans,
            ("UpdateItem", "HOUR") if is_release(request) => Self::HourRelease,
            ("UpdateItem", "HOUR") => Self::HourLease,
            ("UpdateItem", "MONTH") if is_release(request) => Self::MonthRelease,
            ("UpdateItem", "MONTH") => Self::MonthLease,
            ("GetItem" | "BatchGetItem" | "Scan", _) => Self::OtherRead,
            _ => Self::OtherWrite,
        }
    }
}

/// Returns whether a write of a counter reserves nothing, neither for an instance nor for a branch.
fn is_release(write: &Value) -> bool {
    let values = &write["ExpressionAttributeValues"];
    let changes_units = [":units", ":more", ":net"]
        .iter()
        .any(|name| values[name].is_object());
    let update = write["UpdateExpression"].as_str().unwrap_or_default();
    let releases = [
        "used = if_not_exists(used, :zero) - :units",
        "unreserved = if_not_exists(unreserved, :zero) + :units",
    ];
    !changes_units || releases.iter().any(|release| update.contains(release))
}

#[allow(
    clippy::float_arithmetic,
    reason = "capacity units are neither money nor stored counts"
)]
impl Requests {
    /// Returns the requests with this purpose.
    #[must_use]
    pub fn of(&self, purpose: Purpose) -> Consumed {
        self.0.get(&purpose).copied().unwrap_or_default()
    }

    /// Returns the sum of all reads.
    #[must_use]
    pub fn reads(&self) -> Consumed {
        self.sum(Purpose::is_read)
    }

    /// Returns the sum of all writes.
    #[must_use]
    pub fn writes(&self) -> Consumed {
        self.sum(|purpose| !purpose.is_read())
    }

    /// Returns the requests since `earlier`.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let later = self.0.iter().map(|(purpose, consumed)| {
            let before = earlier.of(*purpose);
            let since = Consumed {
                requests: consumed.requests - before.requests,
                units: consumed.units - before.units,
            };
            (*purpose, since)
        });
        Self(later.collect())
    }

    fn sum(&self, is_included: fn(Purpose) -> bool) -> Consumed {
        let included = self.0.iter().filter(|(purpose, _)| is_included(**purpose));
        included.fold(Consumed::default(), |sum, (_, consumed)| Consumed {
            requests: sum.requests + consumed.requests,
            units: sum.units + consumed.units,
        })
    }

    fn add(&mut self, purpose: Purpose, units: f64) {
        let consumed = self.0.entry(purpose).or_default();
        consumed.requests += 1;
        consumed.units += units;
    }
}

impl Meter {
    pub(super) fn new(aws: LocalAws) -> Self {
        Self {
            aws,
            requests: Arc::default(),
        }
    }

    /// Returns the requests so far.
    pub(super) fn requests(&self) -> Requests {
        self.lock().clone()
    }

    /// Sends a request to the tables. Returns status and body of the response.
    pub(super) fn respond(&self, call: &Call) -> (u16, String) {
        let mut request: Value = serde_json::from_str(&call.body).unwrap_or_default();
        let purpose = Purpose::of(call.operation(), &request);
        request["ReturnConsumedCapacity"] = json!("TOTAL");
        let (status, body) = self.aws.call(&call.target, &request.to_string());
        self.lock().add(purpose, units(status, &body));
        (status, body)
    }

    fn lock(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the capacity units that a response reports. DynamoDB charges a write whose condition failed like any other,
/// but does not report it; the items here take one unit.
fn units(status: u16, response: &str) -> f64 {
    if status != 200 {
        return 1.0;
    }
    let response: Value = serde_json::from_str(response).unwrap_or_default();
    let units = |table: &Value| table["CapacityUnits"].as_f64().unwrap_or(0.0);
    match &response["ConsumedCapacity"] {
        // Of a batch: one for each table.
        Value::Array(tables) => tables.iter().map(units).sum(),
        table => units(table),
    }
}
