// Formulas are marked up by arithmatex; on pages without any, MathJax has nothing to do.
window.MathJax = {
  tex: { inlineMath: [["\\(", "\\)"]], displayMath: [["\\[", "\\]"]], processEscapes: true, tags: "none" },
  options: { ignoreHtmlClass: ".*|", processHtmlClass: "arithmatex" },
};
