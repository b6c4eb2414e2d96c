//! A cached token allocates no memory: it is the path of nearly every request.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use filters::RequestHead;
use serde_json::json;

use crate::mint::*;

/// The system's allocator; counts the allocations of each thread.
struct Counting;

thread_local! {
    static ASKED: Cell<usize> = const { Cell::new(0) };
}

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: hands everything on to the system's allocator; the counter is no allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.set(ASKED.get() + 1);
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(at, layout) }
    }
}

#[test]
fn a_remembered_token_costs_no_allocation() {
    let auth = auth();
    let mut headers = http::HeaderMap::new();
    let value = format!("Bearer {}", valid(json!({})));
    headers.insert("authorization", value.parse().expect("ASCII"));
    let identify = || {
        let head = RequestHead {
            http_method: &http::Method::POST,
            path: "/mcp",
            headers: &headers,
            authority: None,
            peer: None,
            certificate: None,
            is_network: true,
        };
        let mut context = Context::from_waker(Waker::noop());
        match pin!(auth.identify(&head)).poll(&mut context) {
            Poll::Ready(result) => result.expect("valid").id(),
            Poll::Pending => unreachable!("keys that never change are never waited for"),
        }
    };
    let first = identify();
    let before = ASKED.get();
    for _ in 0..1000 {
        assert_eq!(identify(), first);
    }
    assert_eq!(ASKED.get() - before, 0);
}
