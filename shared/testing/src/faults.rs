//! Faults of the local AWS services.

use tollgate_local_aws::{Call, Fault, LocalAws};

/// Injects a fault into every further call of an operation, such as `GetItem`.
pub fn fail_operation(aws: &LocalAws, operation: &'static str, fault: Fault) {
    inject_if(aws, fault, move |call| call.operation() == operation);
}

/// Injects a fault into every further call whose body contains this text.
pub fn fail_containing(aws: &LocalAws, text: &'static str, fault: Fault) {
    inject_if(aws, fault, move |call| call.body.contains(text));
}

/// Injects these faults into the next calls of an operation, one after another, and none into later ones.
pub fn fail_in_turn<const N: usize>(aws: &LocalAws, operation: &'static str, faults: [Fault; N]) {
    let mut faults = faults.into_iter();
    aws.inject(move |call| {
        let next = (call.operation() == operation).then(|| faults.next());
        next.flatten().unwrap_or(Fault::None)
    });
}

fn inject_if(aws: &LocalAws, fault: Fault, hit: impl Fn(&Call) -> bool + Send + 'static) {
    aws.inject(move |call| if hit(call) { fault } else { Fault::None });
}
