"""The admin API, one module per noun."""
