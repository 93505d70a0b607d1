"""From mesh and policy to listeners, routes, clusters, endpoints and secrets."""
