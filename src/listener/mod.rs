//! Connections of clients: their limit, TLS, HTTP/1.1 or HTTP/2, and their end. The content of requests is
//! not inspected here.

pub mod connection_limit;
pub mod http1;
pub mod http2;
pub mod keepalive;
pub mod lingering_close;
pub mod protocol_detect;
pub mod reset_budget;
pub mod tcp_cork;
pub mod tls;
pub mod tls_accept;
