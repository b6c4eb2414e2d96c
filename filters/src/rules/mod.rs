//! Rules over caller, call and server, in CEL.
