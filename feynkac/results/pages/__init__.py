"""Pages of results: one offline HTML file with the family tree of the particles (see `feynkac.Result.to_html`)."""

from feynkac.results.pages.page import write_page

__all__ = ["write_page"]
