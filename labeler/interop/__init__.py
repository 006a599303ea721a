"""Reading what others have stored, and writing what they read."""
