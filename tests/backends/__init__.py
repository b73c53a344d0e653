"""Each backend and wrapper under the published suite."""
