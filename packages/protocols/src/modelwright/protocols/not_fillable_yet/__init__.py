"""The Protocols of slots that the engine has and a `StackSpec` cannot fill yet."""
