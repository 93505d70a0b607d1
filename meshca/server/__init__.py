"""Composition root: gRPC services, schedule, HTTP endpoint."""
