//! Connections of clients: how many there may be, TLS, HTTP/1.1 or HTTP/2, when they end. What is in a request is not
//! looked at here.

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
