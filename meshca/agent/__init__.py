"""Node agent: keys made on the host, local SDS, ADS and Workload API."""
