//! Against a real `redis-server` of its own, on a socket in a folder of its own.
