"""A view: a piece of HTML that shows itself in a notebook and saves itself as one page that needs no network."""

from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

from markupsafe import Markup

from tl_neuron_attr._typechecked import typechecked, typechecked_fields
from tl_neuron_attr.results.storage import write_text
from tl_neuron_attr.vis.circuits import bundle
from tl_neuron_attr.vis.templates import asset, render

_FRAMES = "".join(
    f".tna-page:is([data-jp-theme-light={light}] *,.vscode-{name} *,[theme={name}] *){{color-scheme:{name}}}"
    for name, light in (("light", "true"), ("dark", "false"))
)
"""A page in a frame is dark where the notebook around it is: JupyterLab, VS Code and Colab say so by these marks."""


@typechecked_fields
@dataclass(frozen=True)
class View:
    """HTML that is complete in itself.

    Attributes:
        body: The markup, every token in it escaped.
        title: The title of a page made from it.
        scripted: Whether it draws with circuitsvis, whose packed script a page then holds once.
        whole: Whether it is a page of its own: a notebook then shows it in a frame.
    """

    body: Markup
    title: str
    scripted: bool = False
    whole: bool = False

    def page(self) -> str:
        """Return one HTML page: style, scripts and markup in a single file that makes no request."""
        script = bundle() if self.scripted else ""
        return str(render("page.html.j2", title=self.title, style=asset("style.css"), bundle=script, body=self.body))

    @typechecked
    def save(self, path: str | Path) -> Path:
        """Write :meth:`page` to ``path``; the file appears whole or not at all.

        Examples:
            >>> from tempfile import mkdtemp
            >>> View(Markup("<p>hello</p>"), "greeting").save(Path(mkdtemp()) / "hello.html").name
            'hello.html'
        """
        return write_text(path, self.page())

    def _repr_html_(self) -> str:
        """Return the markup for a notebook cell; it works offline."""
        if self.whole:
            frame = "width:100%;height:80vh;border:1px solid #ddd;border-radius:8px"
            page = f'class="tna-page" title="{escape(self.title)}" srcdoc="{escape(self.page())}"'
            return f'<iframe style="{frame}" {page}></iframe><style>{_FRAMES}</style>'
        script = f"<script>{bundle()}</script>" if self.scripted else ""
        return f'<style>{asset("style.css")}</style>{script}<div class="tna">{self.body}</div>'

    def __repr__(self) -> str:
        return f"View({self.title!r}): shown in a notebook; .save(path) writes a page"


def titled(view: View, title: str, lead: str) -> View:
    """Return a view that says what it shows: a heading and one line stand over it.

    Examples:
        >>> titled(View(Markup("<svg></svg>"), "heads"), "Heads", "3 < 5").body
        Markup('<h1>Heads</h1><p>3 &lt; 5</p><svg></svg>')
    """
    return replace(view, body=Markup("<h1>{}</h1><p>{}</p>").format(title, lead) + view.body, title=title, whole=True)
