"""The stores: adapters of the `Store` protocol, and the migrations of those that have a schema."""
