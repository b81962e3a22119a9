//! datastore-testkit
