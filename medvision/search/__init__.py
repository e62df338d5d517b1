"""The search for good values: its space, its trials, where their study is kept, and the page that tells."""
