"""One module per database; `Store.open` picks by URL scheme and imports the driver only then."""
