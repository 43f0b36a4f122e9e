//! The body of a metered response.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use tollgate_domain::usage::Truncation;

use crate::call::CallGuard;

/// Body of a metered response: the handler's own body, with its bytes counted. The record of the call is
/// made when the body ends, fails or is dropped.
#[derive(Debug)]
pub struct MeteredBody<B> {
    /// The handler's body; `None` once it has ended. Declared before the call, and so dropped before it:
    /// costs that a body adds while it is dropped are in the record.
    body: Option<B>,
    call: Option<CallGuard>,
}

impl<B: Body> MeteredBody<B> {
    /// Creates the body of the response to `call`, which is `None` if it is not metered.
    pub(crate) fn new(body: B, call: Option<CallGuard>) -> Self {
        let is_empty = body.is_end_stream();
        let mut metered = Self {
            body: Some(body),
            call,
        };
        match is_empty {
            true => metered.end(None),
            false => metered.set_truncation_if_dropped(Truncation::Dropped),
        }
        metered
    }

    fn set_truncation_if_dropped(&mut self, truncated: Truncation) {
        if let Some(call) = &mut self.call {
            call.set_truncated(Some(truncated));
        }
    }

    fn end(&mut self, truncated: Option<Truncation>) {
        self.body = None;
        if let Some(mut call) = self.call.take() {
            call.set_truncated(truncated);
        }
    }
}

impl<B: Body + Unpin> Body for MeteredBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        // A body that panics has failed.
        self.set_truncation_if_dropped(Truncation::Failed);
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(&mut *body).poll_frame(task);
        let is_at_end = body.is_end_stream();
        self.set_truncation_if_dropped(Truncation::Dropped);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(data), Some(call)) = (frame.data_ref(), &self.call) {
                    call.add_bytes(data.remaining());
                }
                // A reader need not poll again after the last frame.
                if is_at_end || frame.is_trailers() {
                    self.end(None);
                }
            }
            Poll::Ready(Some(Err(_))) => self.end(Some(Truncation::Failed)),
            Poll::Ready(None) => self.end(None),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.body.as_ref().map(Body::size_hint);
        hint.unwrap_or_else(|| SizeHint::with_exact(0))
    }
}
