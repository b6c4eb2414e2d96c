//! The cost of parsing, filtering and rebuilding a call.

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use mcp::json::splice;
use mcp::jsonrpc::request;

fn body(size: usize) -> Vec<u8> {
    let head = r#"{"jsonrpc":"2.0","id":4711,"method":"tools/call","params":{"name":"files__write_file","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}},"arguments":{"text":""#;
    let tail = r#""}}}"#;
    let fill = size.saturating_sub(head.len() + tail.len());
    format!("{head}{}{tail}", "lorem ipsum dolor ".chars().cycle().take(fill).collect::<String>())
        .into_bytes()
}

fn peek(c: &mut Criterion) {
    let mut group = c.benchmark_group("peek");
    for size in [300, 4 * 1024, 64 * 1024, 1024 * 1024] {
        let body = body(size);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(format!("{size}"), |b| {
            b.iter(|| request::read(&body, 64).expect("a valid message"))
        });
    }
    group.finish();
}

fn peek_and_rebuild(c: &mut Criterion) {
    let mut group = c.benchmark_group("peek_and_rebuild");
    for size in [300, 4 * 1024, 64 * 1024] {
        let body = body(size);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(format!("{size}"), |b| {
            b.iter_batched(
                || BytesMut::from(&body[..]),
                |body| {
                    let read = request::read(&body, 64).expect("a valid message");
                    let place = read.name.expect("a name").span;
                    splice::rename(body, place, "write_file")
                },
                BatchSize::SmallInput,
            )
        });
    }
    group.finish();
}

/// The edits of a forwarded call: the server's own name, and an id of the gateway, longer than the client's.
fn edit(c: &mut Criterion) {
    let mut group = c.benchmark_group("edit");
    for size in [300, 64 * 1024, 1024 * 1024] {
        let body = body(size);
        let read = request::read(&body, 64).expect("a valid message");
        let (id, name) = (read.id.expect("an id"), read.name.expect("a name").span);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(format!("{size}"), |b| {
            b.iter_batched(
                || BytesMut::from(&body[..]),
                |body| {
                    let edits = [(id, &b"\"tg-0123456789abcdef\""[..]), (name, &b"\"write_file\""[..])];
                    splice::apply_edits(body, &edits)
                },
                BatchSize::SmallInput,
            )
        });
    }
    group.finish();
}

criterion_group!(benches, peek, peek_and_rebuild, edit);
criterion_main!(benches);
