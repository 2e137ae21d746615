// The style and the scripts of the pages, out of the files beside this one; the build turns them into
// strings.
#pragma once

#include <string_view>

namespace conclave::html {

extern const std::string_view kPageStyle;      // page.css
extern const std::string_view kCharts;         // charts.js: what both pages draw with
extern const std::string_view kInspectScript;  // inspect.js
extern const std::string_view kReportScript;   // report.js

}  // namespace conclave::html
