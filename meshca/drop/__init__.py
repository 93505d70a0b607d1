"""Files for proxies that speak no SDS."""
