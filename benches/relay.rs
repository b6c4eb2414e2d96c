//! A relay on Pingora without any features: the least that any gateway on Pingora costs. `make stage`
//! builds it with the flags of the gateway and measures both.
//!
//!     relay LISTEN SERVER        both `IP:PORT`; one thread

use std::net::SocketAddr;

use async_trait::async_trait;
use pingora::prelude::{HttpPeer, Server};
use pingora::proxy::{ProxyHttp, Session, http_proxy_service};
use pingora::server::configuration::ServerConf;

#[global_allocator]
static ALLOCATOR: toolgate::process::allocator::Allocator = toolgate::process::allocator::Allocator;

struct Relay(SocketAddr);

#[async_trait]
impl ProxyHttp for Relay {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> pingora::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.0, false, String::new())))
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(listen), Some(Ok(server))) = (arguments.next(), arguments.next().map(|text| text.parse()))
    else {
        eprintln!("usage: relay LISTEN SERVER, both IP:PORT");
        std::process::exit(2);
    };
    let conf = ServerConf { threads: 1, upstream_keepalive_pool_size: 1024, ..ServerConf::default() };
    let mut snapshot = Server::new_with_opt_and_conf(None, conf);
    snapshot.bootstrap();
    let mut service = http_proxy_service(&snapshot.configuration, Relay(server));
    service.add_tcp(&listen);
    snapshot.add_service(service);
    snapshot.run_forever();
}
