// Saves the tables as they are shown, in their order, as one CSV. A cell that a spreadsheet would take for a formula gets a quote before it.
() => {
  const text = (value) => `"${(/^[=+@]/.test(value) ? "'" + value : value).replaceAll('"', '""')}"`;
  const tables = [...document.querySelectorAll("#models table")];
  const names = (table) => [...table.tHead.rows[0].cells].map((cell) => cell.innerText.trim());
  const headings = [...new Set(tables.flatMap(names))];
  const lines = [["Data set", ...headings].map(text).join(",")];
  for (const table of tables) {
    const places = headings.map((heading) => names(table).indexOf(heading));
    for (const row of table.tBodies[0].rows) {
      const values = places.map((place) => (place < 0 ? "" : row.cells[place].dataset.value));
      lines.push([table.dataset.benchmark, ...values].map(text).join(","));
    }
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
  link.download = "sslzoo-leaderboard.csv";
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
