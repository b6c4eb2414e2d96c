//! What limits cost a call that they let through, on one core and with all cores on one budget.
fn main() {}
