//! Links, addresses, routes and neighbours over rtnetlink, also in another network namespace.
