//! Retries of errors that the SDK takes for permanent.

use aws_sdk_dynamodb::config::interceptors::InterceptorContext;
use aws_sdk_dynamodb::config::retry::{ClassifyRetry, RetryAction};
use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;

/// Classifier that retries a single write which conflicted with a transaction on its item: the write
/// had no effect, and the transaction ends soon. The SDK does not retry this error by itself.
#[derive(Debug)]
pub(crate) struct RetryConflicts;

impl ClassifyRetry for RetryConflicts {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let error = context
            .output_or_error()
            .and_then(Result::err)
            .and_then(|error| error.as_operation_error());
        let code = error.and_then(|error| {
            let update = error.downcast_ref::<UpdateItemError>().map(|e| e.code());
            let put = || error.downcast_ref::<PutItemError>().map(|e| e.code());
            update.or_else(put).flatten()
        });
        match code {
            Some("TransactionConflictException") => RetryAction::transient_error(),
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "transaction conflicts of single writes"
    }
}
