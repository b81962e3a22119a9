//! Tokens, CA pinning and the client side of the supervisor.
