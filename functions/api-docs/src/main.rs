//! The api-docs function, behind API Gateway.

use tollgate_runtime::{Env, MainError, logging};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), MainError> {
    logging::init(&Env::from_process())?;
    Ok(tollgate_web::run(api_docs::routes()).await?)
}
