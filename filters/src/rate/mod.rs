//! How often: rates, quotas and concurrency.
