"""Generated from proto/keyturn/v1 by `make proto`. Do not edit."""
