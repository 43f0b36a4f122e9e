//! The function's binary, run as Lambda runs it.

use tollgate_local_aws::{Outcome, answer_alone};

#[tokio::test]
async fn it_starts_as_the_template_configures_it_and_answers() {
    let binary = env!("CARGO_BIN_EXE_usage-api");
    let event = include_str!("../../../events/usage-api/current.json");
    let outcome = answer_alone(binary, "UsageApiFunction", event).await;
    let Ok(Some(Outcome::Answer(answer))) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(answer["statusCode"], 200, "{answer}");
}
