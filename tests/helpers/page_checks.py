"""What every web page of a run must be."""

LOOKS = """(() => {
    const grey = c => { const [r, g, b] = c.match(/[0-9.]+/g).map(Number); return (r + g + b) / 3 };
    const body = getComputedStyle(document.body);
    return {width: document.documentElement.scrollWidth, page: grey(body.backgroundColor),
            ink: grey(body.color),
            broken: [...document.images].filter(i => !(i.complete && i.naturalWidth)).length,
            pictures: document.images.length,
            outside: [...document.querySelectorAll('[src], link[href], a[download]')]
                     .map(e => e.src || e.href)
                     .filter(a => !a.startsWith('data:'))}
})()"""


def check_pages(browser, folder):
    """Every page of `folder`: no console error, no broken picture, nothing from elsewhere, no
    sideways scrolling on a phone.
    """
    page = browser.page()
    pages = sorted(folder.glob("*.html"))
    for path in pages:
        for width, height, scheme in ((390, 844, "light"), (1280, 800, "dark")):
            page.size(width, height, phone=width < 500)
            page.scheme(scheme)
            page.open(path.as_uri())
            page.run("document.querySelectorAll('details').forEach(d => d.open = true)")
            seen = page.run(LOOKS)
            assert page.problems == [], (path.name, page.problems)
            assert seen["width"] <= width, f"{path.name} is {seen['width']} px wide on {width} px"
            assert seen["broken"] == 0 and seen["outside"] == [], (path.name, seen)
            assert (
                seen["page"] > 200 > 60 > seen["ink"]
                if scheme == "light"
                else seen["page"] < 60 < 200 < seen["ink"]
            )
    return page, pages
