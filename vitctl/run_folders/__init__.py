"""Run folders seen from outside: what state they are in, what their settings are, what they said of their images."""
