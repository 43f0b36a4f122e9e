//! Rotates API keys, behind the gateway.

use tollgate_runtime::{Env, Failure, logging};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let env = Env::of_process();
    logging::init(&env)?;
    let issuer = keys::Issuer::from_env(&env)?;
    Ok(tollgate_web::run(keys::rotate::routes(issuer)).await?)
}
