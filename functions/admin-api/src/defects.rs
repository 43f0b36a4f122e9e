//! The problem of usage that cannot be counted.

use serde_json::json;
use tollgate_api::problem::Member;
use tollgate_api::usage::Defect;
use tollgate_web::Problem;

/// Creates the 422 for usage that cannot be counted.
pub(crate) fn not_countable(defects: &[Defect]) -> Problem {
    let detail = "Nothing was counted, because the request has the defects listed. Correct them, and send \
                  the whole request again.";
    Problem::unprocessable(detail).with(Member::Defects, json!(defects))
}
