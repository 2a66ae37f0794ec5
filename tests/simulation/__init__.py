"""The real engine on memory adapters in virtual time: everything that happens follows from one seed."""
