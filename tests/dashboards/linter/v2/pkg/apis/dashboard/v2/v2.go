// Package v2 has the names that the linter's adapter for the schema v2 mentions. It reads no such dashboard.
package v2

type DashboardSpec struct {
	Title       string
	Editable    *bool
	Elements    map[string]DashboardElement
	Variables   []DashboardVariableKind
	Annotations []DashboardAnnotationQueryKind
}

type DashboardElement struct {
	PanelKind *struct{ Spec DashboardPanelSpec }
}

type DashboardPanelSpec struct {
	Id                 float64
	Title, Description string
	VizConfig          struct {
		Group string
		Spec  struct{ FieldConfig, Options any }
	}
	Data struct {
		Spec struct{ Queries []DashboardPanelQueryKind }
	}
}

type DashboardPanelQueryKind struct {
	Spec struct {
		RefId  string
		Hidden bool
		Query  DashboardDataQueryKind
	}
}

type DashboardDataQueryKind struct {
	Group      string
	Datasource *struct{ Name *string }
	Spec       map[string]any
}

type DashboardAnnotationQueryKind struct {
	Spec struct {
		Name  string
		Query DashboardDataQueryKind
	}
}

type DashboardVariableRefresh string

const (
	DashboardVariableRefreshOnTimeRangeChanged DashboardVariableRefresh = "onTimeRangeChanged"
	DashboardVariableRefreshOnDashboardLoad    DashboardVariableRefresh = "onDashboardLoad"
)

type variable struct {
	Spec struct {
		Name     string
		Label    *string
		Multi    bool
		AllValue *string
		Refresh  DashboardVariableRefresh
		PluginId string
	}
}

type textVariable struct {
	Spec struct {
		Name     string
		Label    *string
		Multi    bool
		AllValue *string
		Query    string
	}
}

type queryVariable struct {
	Spec struct {
		Name     string
		Label    *string
		Multi    bool
		AllValue *string
		Refresh  DashboardVariableRefresh
		Query    DashboardDataQueryKind
	}
}

type DashboardVariableKind struct {
	QueryVariableKind                                                                *queryVariable
	DatasourceVariableKind, AdhocVariableKind, GroupByVariableKind                   *variable
	SwitchVariableKind                                                               *variable
	CustomVariableKind, IntervalVariableKind, ConstantVariableKind, TextVariableKind *textVariable
}
