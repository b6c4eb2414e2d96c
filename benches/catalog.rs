//! The cost of listing from memory, and of building a catalog in the background.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use mcp::Era;
use mcp::jsonrpc::message;
use toolgate::catalog::{Catalog, DiscoveredServer, ListKind, Lists, Page, ServerLists};
use toolgate::config::Config;
use toolgate::server::Server;
use toolgate::telemetry::Metrics;
use toolgate::upstream::ServerHandshake;

fn face(tools: usize) -> Arc<ServerLists> {
    let tool = |n: usize| {
        format!(
            r#"{{"name":"tool_{n}","description":"Reads entry number {n} of the table and gives back what it holds, as text.","inputSchema":{{"type":"object","properties":{{"id":{{"type":"string","description":"which one"}},"limit":{{"type":"integer","minimum":1}}}},"required":["id"]}}}}"#
        )
    };
    let tools: Vec<String> = (0..tools).map(tool).collect();
    let result = Bytes::from(format!(r#"{{"tools":[{}]}}"#, tools.join(",")));
    let page = Page::read(&result, ListKind::Tools).expect("a list of tools");
    let mut lists = Lists::default();
    lists.0[ListKind::Tools as usize].items = page.items;
    let handshake = ServerHandshake {
        version: "2026-07-28".into(),
        capabilities: Bytes::from_static(br#"{"tools":{}}"#),
        server_info: Bytes::from_static(br#"{"name":"bench","version":"1"}"#),
        instructions: None,
        faults: Vec::new(),
    };
    Arc::new(ServerLists { handshake, lists, events: false, era: Era::Modern })
}

fn seen(servers: usize, tools: usize) -> Vec<DiscoveredServer> {
    let config = Config::quickstart();
    let settings = config.servers.values().next().expect("the quickstart has a server");
    let server = |n: usize| {
        Server::new(&format!("server{n}"), settings, &config.limits, None)
            .expect("the demo server can always be made")
    };
    (0..servers)
        .map(|n| DiscoveredServer {
            server: server(n),
            legacy: None,
            modern: Some(face(tools)),
            bridged: None,
            starting: [false; 2],
        })
        .collect()
}

fn list(c: &mut Criterion) {
    let metrics = Metrics::new();
    for tools in [10, 1_000] {
        let catalog = Catalog::build(1, &seen(1, tools), &BTreeMap::new(), &metrics);
        c.bench_function(&format!("list/{tools}"), |b| {
            b.iter(|| {
                let view = catalog.endpoint("/mcp").expect("the federated endpoint").view(Era::Modern);
                let page = view.page(ListKind::Tools, None).expect("the first page");
                black_box(message::result(b"4711", page))
            });
        });
    }
}

fn find(c: &mut Criterion) {
    let metrics = Metrics::new();
    for (servers, tools) in [(1, 10), (500, 20)] {
        let catalog = Catalog::build(1, &seen(servers, tools), &BTreeMap::new(), &metrics);
        c.bench_function(&format!("find/{servers}x{tools}"), |b| {
            b.iter(|| {
                let endpoint = catalog.endpoint(black_box("/mcp")).expect("the federated endpoint");
                black_box(endpoint.view(Era::Modern).tools.contains_key(black_box("server0__tool_7")))
            });
        });
    }
}

fn build(c: &mut Criterion) {
    let metrics = Metrics::new();
    let seen = seen(50, 20);
    c.bench_function("build/50x20", |b| b.iter(|| Catalog::build(1, &seen, &BTreeMap::new(), &metrics)));
}

criterion_group!(benches, list, find, build);
criterion_main!(benches);
