//! Routes and OpenAPI operations of a function, declared together.

use axum::routing::MethodFilter;
use utoipa::openapi::HttpMethod;

/// Declares the operations of a module from its handlers, which are annotated with `#[utoipa::path]`:
/// a function `routes` that returns the axum router, and a type `Operations` with their OpenAPI document.
///
/// Each route takes its method and path from the annotation. Only a program that asks for the document
/// contains it: the deployed functions do not.
#[macro_export]
macro_rules! operations {
    ($vis:vis ($($state:ident: $type:ty)?) $($handler:ident),+ $(,)?) => {
        /// Returns the routes of the operations.
        $vis fn routes($($state: $type)?) -> $crate::private::axum::Router {
            use $crate::private::utoipa::Path;
            $crate::private::paste! {
                $crate::private::axum::Router::new()
                    $(.route(
                        &[<__path_ $handler>]::path(),
                        $crate::private::axum::routing::on(
                            $crate::private::method(&[<__path_ $handler>]::methods()),
                            $handler,
                        ),
                    ))+
                    $(.with_state($state))?
            }
        }

        /// OpenAPI document of the operations.
        #[derive(Debug, $crate::private::utoipa::OpenApi)]
        #[openapi(paths($($handler),+))]
        $vis struct Operations;
    };
}

/// Returns the filter for the methods of an operation.
#[must_use]
pub fn method(methods: &[HttpMethod]) -> MethodFilter {
    let filters = methods.iter().map(|method| match method {
        HttpMethod::Get => MethodFilter::GET,
        HttpMethod::Put => MethodFilter::PUT,
        HttpMethod::Post => MethodFilter::POST,
        HttpMethod::Head => MethodFilter::HEAD,
        HttpMethod::Patch => MethodFilter::PATCH,
        HttpMethod::Trace => MethodFilter::TRACE,
        HttpMethod::Delete => MethodFilter::DELETE,
        HttpMethod::Options => MethodFilter::OPTIONS,
    });
    filters
        .reduce(MethodFilter::or)
        .unwrap_or(MethodFilter::GET)
}
