"""Customer service over a real database: `puna env try shop`."""
