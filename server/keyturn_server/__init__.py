"""The keyturn service: holds the signing keys of Omnichannel chats, rotates and publishes them, and signs tokens."""
